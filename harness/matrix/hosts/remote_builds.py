"""Builds the images of a run on hosts, in tasks, and imports the entries into the controller's store.

A controller with compilers uses hosts that have at least as many cores; one without them, every host that can build.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from harness.core import paths
from harness.core.errors import BuildError, HostError, PinpointError
from harness.core.events import Bus, ProgressStep
from harness.core.host_packages import SOURCE, missing_build_packages
from harness.images import agreed_layers, debian_kernel, prepare
from harness.images.agreed_layers import Layers
from harness.images.build_context import BuildContext
from harness.images.recipe_files import files_by_name, tree_of
from harness.images.vm_recipe import Recipe
from harness.matrix.cell_shards.engine import BUILD, ShardNeeds
from harness.matrix.hosts import build_on_host, build_tasks, entry_transfer
from harness.matrix.hosts.build_on_host import BuiltEntries
from harness.matrix.hosts.build_tasks import BuildTask, BuildTurns
from harness.matrix.hosts.entry_transfer import TransferLocks
from harness.matrix.hosts.host_placement import Host, Placement

# Sources that are directories or files of the controller's host.
_NOT_SENT = ("tree", "given")

# Runs a function on a host: the host, a name for the task, the function, and its arguments.
OnOneHost = Callable[..., Any]
# Past seconds of the tasks of an image, by the VM and by the name of the task.
PastSeconds = Mapping[str, Mapping[str, float]]


class RemoteBuilds:
    """`obtain` is called for each image before the controller would build it."""

    def __init__(
        self, placement: Placement, turns: BuildTurns, on_host: OnOneHost, bus: Bus, past: PastSeconds | None = None
    ) -> None:
        """`on_host` runs a function on a host, and raises an error of Dask if the host is lost."""
        self._placement = placement
        self._turns = turns
        self._on_host = on_host
        self._bus = bus
        self._past = past or {}
        self._locks = TransferLocks()

    def demand_builders(self, recipes: Iterable[Recipe]) -> None:
        """Raise HostError if neither this host nor another one can build an image that the store lacks."""
        for recipe in recipes:
            lacking = _lacking_here(recipe)
            refusal = "its sources are files of this host" if _names_files_here(recipe) else self._refusal(recipe)
            if lacking and refusal and not _is_built_here(recipe):
                where = f"this host lacks {' '.join(lacking)}"
                mend = f"install them here, or add a host that can build; see {paths.PROGRAM} doctor"
                raise HostError(f"its image cannot be built: {where}, and {refusal}", where=recipe.name, mend=mend)

    def obtain(self, recipe: Recipe) -> None:
        """Build what the store lacks of an image on hosts, as far as hosts can.

        Where no host can, or a host would build another image, the caller builds it. Raises BuildError when a build
        fails, and when neither the caller nor a host can build.
        """
        if _names_files_here(recipe):
            return
        layers = self._layers(recipe)
        context = BuildContext.in_cache(self._bus)
        if missing := _missing(layers, context):
            _ImageOnHosts(recipe, layers, missing, self._run).build(self._past.get(recipe.name, {}))
        if self._turns.are_closed:
            raise HostError("is not built: the run ends", where=recipe.name)
        left = _missing(layers, context)
        if left and (lacking := _lacking_here(recipe)):
            what = f"no host built its {', '.join(left)}, and this host lacks {' '.join(lacking)}"
            raise BuildError(what, where=recipe.name, mend="see the lines about hosts")

    def _layers(self, recipe: Recipe) -> Layers:
        """Return the inputs of the entries: those of this host, or where it lacks compilers those of a host."""
        quiet = BuildContext.in_cache(Bus())
        try:
            return prepare.layers_of(recipe, quiet)
        except HostError as error:
            refused = str(error)
        ability = f"{BUILD}-{recipe.arch}"
        able = [host for host in self._placement.hosts.values() if ability in host.abilities and host.most_lanes]
        for host in sorted(able, key=lambda each: each.cores, reverse=True):
            given = recipe.model_dump_json()
            with self._bus.step(recipe.name, "image") as step:
                layers, error_there = self._on_host(host, f"name-{recipe.name}", build_on_host.name_layers, given)
                step.set_final_detail(error_there or f"its key is that of host {host.name}: {refused}")
            if not error_there:
                agreed_layers.use_in_this_process(recipe.name, agreed_layers.keep(layers, recipe.name, quiet.store))
                found: Layers = layers
                return found
        raise BuildError(f"its key cannot be computed: {refused}", where=recipe.name, mend="add a host that can build")

    def _refusal(self, recipe: Recipe) -> str:
        return self._placement.refusal(ShardNeeds(recipe.name, 0.0, 0.0, (f"{BUILD}-{recipe.arch}",)))

    def _run(self, task: BuildTask, recipe: Recipe, wanted: Layers) -> Host | None:
        """Run a task on a host and import its entries; return the host, None if no host can. Raises BuildError."""
        here = 0 if _lacking_here(recipe) else len(os.sched_getaffinity(0))
        refused: set[str] = set()
        while taken := self._turns.take(task, lambda host: host.cores >= here, refused):
            host, lane = taken
            try:
                with suppress(_NotBuilt), self._bus.step(recipe.name, task.name) as step:
                    self._build(task, recipe, wanted, host, step)
                    step.set_final_detail(f"on host {host.name}")
                    return host
            finally:
                self._placement.release(lane)
            refused.add(host.address)
        return None

    def _build(self, task: BuildTask, recipe: Recipe, wanted: Layers, host: Host, step: ProgressStep) -> None:
        """Build the entries of a task on a host. Raises _NotBuilt if another host, or this one, can build them."""
        step.publish_progress(f"on host {host.name}")
        store = BuildContext.in_cache(Bus()).store
        on_host = partial(self._on_host, host)
        try:
            if task.needs_kernel:
                kernel = debian_kernel.KIND
                # The tasks after the kernel may begin on one host at once.
                with self._locks.of(store.entry_path(kernel, wanted[kernel]).name, host.address):
                    entry_transfer.send_entry_unless_there(store, kernel, wanted[kernel], on_host, step)
            given = recipe.model_dump_json(), task.kinds, dict(wanted)
            built: BuiltEntries = on_host(f"{task.name}-{recipe.name}", build_on_host.build_entries, *given)
            if built.error:
                raise BuildError(f"on host {host.name}: {built.error}")
            for packed in built.entries:
                entry_transfer.fetch_entry(packed, store, on_host, step)
        except PinpointError:
            raise
        except Exception as lost:
            # Of Dask: it has many kinds.
            raise _NotBuilt(f"host {host.name} was lost ({type(lost).__name__})") from None
        if built.differs:
            raise _NotBuilt(f"host {host.name} has other packages or compilers")


class _ImageOnHosts:
    """The tasks of one image: programs at once, the kernel, and after it modules and root file system at once."""

    def __init__(
        self,
        recipe: Recipe,
        layers: Layers,
        missing: Sequence[str],
        run: Callable[[BuildTask, Recipe, Layers], Host | None],
    ) -> None:
        self._recipe = recipe
        self._layers = layers
        self._missing = missing
        self._run = run

    def build(self, past: Mapping[str, float]) -> None:
        """Run the tasks. Raises BuildError, when the tasks that had begun have ended."""
        recipe = self._recipe
        with ThreadPoolExecutor(3, thread_name_prefix=f"{recipe.name}-tasks") as pool:
            begun = [pool.submit(self._task, task) for task in build_tasks.tasks_without_kernel(recipe, past)]
            kernel, built = build_tasks.kernel_task(recipe, past), None
            if set(kernel.kinds) & set(self._missing) and not (built := self._task(kernel)):
                # The controller builds it, and the rest where it is.
                return
            where = built.address if built else ""
            for task in build_tasks.tasks_after_kernel(recipe, past, where):
                if "modules" in task.kinds and build_tasks.is_compiled(recipe) and not (where or _lacking_here(recipe)):
                    # Its source tree is here.
                    continue
                begun.append(pool.submit(self._task, task))
            for each in begun:
                each.result()

    def _task(self, task: BuildTask) -> Host | None:
        kinds = tuple(kind for kind in task.kinds if kind in self._missing)
        if not kinds:
            return None
        task = replace(task, kinds=kinds)
        done = self._run(task, self._recipe, self._layers)
        if done is None and task.only_host and _lacking_here(self._recipe):
            # That host is lost, and this one cannot build: another one fetches the source.
            done = self._run(replace(task, only_host=""), self._recipe, self._layers)
        return done


class _NotBuilt(HostError):
    """A host did not build a task, but another one may."""


def _names_files_here(recipe: Recipe) -> bool:
    return recipe.kernel.source in _NOT_SENT or tree_of(files_by_name()[recipe.name]) == paths.own_tree()


def _missing(layers: Layers, context: BuildContext) -> list[str]:
    """Return the kinds of the entries that the store lacks."""
    return [kind for kind, parts in layers.items() if not context.store.present(kind, parts)]


def _lacking_here(recipe: Recipe) -> list[str]:
    """Return the packages that this host lacks to build an image."""
    compiled = [SOURCE, recipe.kernel.compiler] if build_tasks.is_compiled(recipe) else []
    return missing_build_packages([recipe.arch, *compiled])


def _is_built_here(recipe: Recipe) -> bool:
    try:
        return prepare.is_built(recipe, BuildContext.in_cache(Bus()))
    except HostError:
        return False
