"""The tasks that an image is built in, with the needs of each; the longest waiting task by past durations comes first.

Kernel, modules and root file system are entries of some MB in the store: 40 MB, 1 MB and 6 MB for a Debian kernel. The
modules of a kernel that is compiled are built where its source tree is, which has 1.3 GB and does not travel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from harness.core import process
from harness.images import debian_kernel, debug_symbols, loader_programs, modules, rootfs, user_targets
from harness.images.build_context import InProcessCompileSlots
from harness.images.vm_recipe import Recipe
from harness.matrix.cell_shards.engine import BUILD, ShardNeeds
from harness.matrix.hosts.host_placement import BuildNeeds, Host, Placement

_LOOK_SECONDS = 0.2
# What a compile of a kernel may use of memory, and another task.
_GIB_OF_COMPILE, _GIB = 3.0, 1.0
# A module build runs on all cores for some seconds; two of them on a host take turns without loss.
_CORES_OF_MODULES = 2.0
# The assumed seconds of a task that has no past duration, and of a kernel that is compiled.
_UNKNOWN = {"kernel": 20.0, "modules": 30.0, "programs": 5.0, "rootfs": 10.0, "freeze": 15.0}
_UNKNOWN_COMPILE = 600.0


@dataclass(frozen=True)
class BuildTask:
    """One part of the work for an image: its name, the kinds of store entries that it makes, and what it needs.

    `needs` returns what it uses of a host. `seconds` is its past or assumed duration. `only_host` is the address of the
    one host that can run it; empty for any. With `needs_kernel` the kernel is sent to a host that lacks it.
    """

    vm: str
    name: str
    kinds: tuple[str, ...]
    needs: Callable[[Host], ShardNeeds]
    seconds: float
    only_host: str = ""
    needs_kernel: bool = False


def is_compiled(recipe: Recipe) -> bool:
    """Return True if the kernel of a recipe is built from source."""
    return recipe.kernel.source in ("debian-source", "tree")


def kernel_task(recipe: Recipe, past: Mapping[str, float]) -> BuildTask:
    """Return the task that makes the kernel. One that is compiled uses as many cores as a compile slot has."""

    def needs(host: Host) -> ShardNeeds:
        if not is_compiled(recipe):
            return _needs(recipe, host, 1.0)
        slots = InProcessCompileSlots(max(1, int(host.cores)), host.gib).count
        return _needs(recipe, host, host.cores / slots, _GIB_OF_COMPILE)

    return BuildTask(recipe.name, "kernel", (debian_kernel.KIND,), needs, _seconds(recipe, "kernel", past))


def tasks_without_kernel(recipe: Recipe, past: Mapping[str, float]) -> Iterator[BuildTask]:
    """Yield the tasks that need no kernel: the programs of user space."""
    kinds = (loader_programs.KIND, user_targets.KIND)
    yield BuildTask(recipe.name, "programs", kinds, _one_core(recipe), _seconds(recipe, "programs", past))


def tasks_after_kernel(recipe: Recipe, past: Mapping[str, float], where_built: str) -> Iterator[BuildTask]:
    """Yield the tasks that need the kernel: the modules, and the root file system, which has its drivers.

    `where_built` is the address of the host that built the kernel.
    """

    def needs(host: Host) -> ShardNeeds:
        return _needs(recipe, host, min(_CORES_OF_MODULES, host.cores))

    only = where_built if is_compiled(recipe) else ""
    yield BuildTask(recipe.name, "modules", (modules.KIND,), needs, _seconds(recipe, "modules", past), only, True)
    kinds, seconds = (rootfs.KIND, debug_symbols.KIND), _seconds(recipe, "rootfs", past)
    yield BuildTask(recipe.name, "rootfs", kinds, _one_core(recipe), seconds, needs_kernel=True)


def freeze_task(recipe: Recipe, past: Mapping[str, float], needs: ShardNeeds) -> BuildTask:
    """Return the task that boots a guest and freezes it; `needs` are those of its row."""
    return BuildTask(recipe.name, "freeze", (), lambda _: needs, _seconds(recipe, "freeze", past))


def _one_core(recipe: Recipe) -> Callable[[Host], ShardNeeds]:
    return lambda host: _needs(recipe, host, 1.0)


def _needs(recipe: Recipe, host: Host, cores: float, gib: float = _GIB) -> ShardNeeds:
    return ShardNeeds(recipe.name, min(cores, host.cores), min(gib, host.gib), (f"{BUILD}-{recipe.arch}",))


def _seconds(recipe: Recipe, name: str, past: Mapping[str, float]) -> float:
    unknown = _UNKNOWN_COMPILE if name == "kernel" and is_compiled(recipe) else _UNKNOWN[name]
    return past.get(name, unknown)


class BuildTurns:
    """Gives hosts to the tasks that wait in threads, the longest task first."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._waiting: list[BuildNeeds] = []
        self._turn = threading.Lock()
        self._ending = threading.Event()

    def take(
        self, task: BuildTask, is_wanted: Callable[[Host], bool], refused: Collection[str] = ()
    ) -> tuple[Host, str] | None:
        """Wait for a host; return it and the lane on it, which the caller releases.

        None if no host can ever run the task, or the run ends. `is_wanted` returns False for hosts that must not;
        `refused` are the addresses of those that were tried.
        """
        only = task.only_host

        def may_use(host: Host) -> bool:
            return host.address not in refused and only in ("", host.address) and is_wanted(host)

        own = BuildNeeds(task.vm, task.needs, may_use, task.seconds, task.needs_kernel)
        with self._turn:
            self._waiting.append(own)
        try:
            while not self.are_closed:
                with self._turn:
                    found = self._choose(own)
                if found is None or found[1]:
                    return found
                time.sleep(_LOOK_SECONDS)
            return None
        finally:
            with self._turn:
                self._waiting.remove(own)
                self._placement.keep_no_host_for(own)

    @property
    def are_closed(self) -> bool:
        """True when no further task begins."""
        return self._ending.is_set() or process.is_stopping()

    def close(self) -> None:
        """Let no further task begin."""
        self._ending.set()

    def _choose(self, own: BuildNeeds) -> tuple[Host, str] | None:
        """Return the host of a task if no longer one waits that has room now; the lane is empty if it must wait."""
        for each in sorted(self._waiting, key=lambda waiting: waiting.seconds, reverse=True):
            if each is own:
                break
            if first := self._placement.has_room_for_build(each):
                return first, ""
        return self._placement.take_for_build(own)
