"""Images are built on hosts in tasks, the longest first, and imported (--hosts); a controller needs no compilers."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_hosts import LARGEST_MAKESPAN, host
from test_store_exchange import KEY, build

from harness.core import paths
from harness.core.errors import BuildError, HostError, UsageError
from harness.core.events import Bus, Event, EventKind, ProgressStep
from harness.images import agreed_layers, prepare
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe, load_all
from harness.matrix.cell_shards.engine import ShardNeeds
from harness.matrix.hosts import build_on_host, entries_on_host, remote_builds
from harness.matrix.hosts.build_on_host import BuiltEntries
from harness.matrix.hosts.build_tasks import BuildTask, BuildTurns, kernel_task, tasks_after_kernel
from harness.matrix.hosts.entry_transfer import send_file
from harness.matrix.hosts.host_placement import BuildNeeds, Host, Placement
from harness.matrix.hosts.remote_builds import RemoteBuilds

LAYERS = {name: [f"the {name}"] for name in ("kernel", "rootfs", "modules", "programs")}
OTHER = {**{name: [*parts, "other"] for name, parts in LAYERS.items()}, "programs": LAYERS["programs"]}


class Hosts:
    """Hosts whose functions run in this process, with the cache of the host. `broken` replaces a function's result."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.built: list[tuple[str, str]] = []
        self.broken: dict[str, Callable[..., Any]] = {}
        self.events: list[Event] = []
        self.bus = Bus()
        self.bus.add_listener(self.events.append)
        self.lacking: list[str] = []
        self.layers: dict[str, dict[str, list[str]]] = {}
        self.seconds: dict[str, float] = {}
        self._here = threading.local()
        monkeypatch.setattr(paths, "cache", lambda: directory / self.name_here)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setenv(agreed_layers.VARIABLE, "{}")
        monkeypatch.setattr(prepare, "store_entries", self._layers)
        monkeypatch.setattr(prepare, "layers_of", self._layers)
        monkeypatch.setattr(prepare, "image_key", lambda *_: KEY)
        monkeypatch.setattr(prepare, "is_built", self._is_built)
        monkeypatch.setattr(prepare, "prepare", self._prepare)
        monkeypatch.setattr(prepare, "obtain_entries", self._obtain_entries)
        monkeypatch.setattr(remote_builds, "missing_build_packages", lambda _: self.lacking)

    @property
    def name_here(self) -> str:
        """The host whose function this thread runs."""
        name: str = getattr(self._here, "name", "controller")
        return name

    def builds(self, *hosts: Host) -> RemoteBuilds:
        placement = Placement(hosts)
        return RemoteBuilds(placement, BuildTurns(placement), self.run_on, self.bus)

    def obtain(self, recipe: Recipe, *hosts: Host) -> None:
        self.builds(*hosts).obtain(recipe)
        assert not any(each.running or each.kept_for for each in hosts)

    def ends(self, kind: EventKind = EventKind.FINISHED) -> dict[str, str]:
        """Return the last words of each step of the controller."""
        return {event.step: event.detail for event in self.events if event.kind is kind}

    def has_image(self) -> bool:
        """Is the image in the controller's store?"""
        return self._is_built(None, BuildContext.in_cache(Bus()))

    def run_on(self, on: Host, _key: str, work: Callable[..., Any], *given: object, **named: object) -> Any:  # noqa: ANN401
        self._here.name = on.name
        try:
            result = work(*given, **named)
        finally:
            self._here.name = "controller"
        return self.broken[work.__name__](result) if work.__name__ in self.broken else result

    def _layers(self, _recipe: object, _context: object) -> dict[str, list[str]]:
        found = self.layers.get(self.name_here, LAYERS)
        if not found:
            raise HostError("hppa-linux-gnu-gcc is not installed")
        return found

    def _obtain_entries(self, recipe: Recipe, context: BuildContext, kinds: Sequence[str]) -> None:
        # As in prepare.py, what needs the kernel gets it first.
        for kind in (["kernel"] if {"modules", "rootfs"} & set(kinds) else []) + list(kinds):
            if not context.store.present(kind, self._layers(recipe, context)[kind]):
                self.built.append((kind, self.name_here))
                time.sleep(self.seconds.get(kind, 0))
            context.store.obtain(kind, self._layers(recipe, context)[kind], vm=recipe.name, build=build)

    def _prepare(self, recipe: Recipe, context: BuildContext) -> None:
        self._obtain_entries(recipe, context, list(LAYERS))

    def _is_built(self, _recipe: object, context: BuildContext) -> bool:
        return all(context.store.present(kind, parts) for kind, parts in self._layers(None, None).items())


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return Hosts(tmp_path, monkeypatch)


RECIPES = load_all()
SOURCE, PACKAGED = RECIPES["parisc"], RECIPES["arm64-debian"]
LARGE = ("large", 16, 32, "build-parisc", "build-arm64")


def test_the_host_with_the_most_cores_builds(hosts: Hosts) -> None:
    hosts.obtain(SOURCE, host("medium", 4, 8, "build-parisc"), host(*LARGE), host("other", 64, 64, "qemu-parisc"))
    assert ("kernel", "large") in hosts.built
    assert sorted(kind for kind, _ in hosts.built) == sorted(LAYERS)
    assert hosts.has_image()
    assert hosts.ends()["kernel"] == "on host large"
    for name in ("large", "medium"):
        assert not list((hosts.directory / name / "leaving").glob("*"))
    # The second time it is in the controller's store.
    count = len(hosts.built)
    hosts.obtain(SOURCE, host(*LARGE))
    assert len(hosts.built) == count


@pytest.mark.parametrize(
    "given", [[host("small", 1, 8, "build-parisc")], [host("unable", 16, 32, "qemu-parisc", "build-arm64")], []]
)
def test_no_better_host_builds_nothing(hosts: Hosts, given: list[Host]) -> None:
    hosts.obtain(SOURCE, *given)
    assert (hosts.built, hosts.has_image()) == ([], False)


def test_tasks_of_an_image_run_on_several_hosts(hosts: Hosts) -> None:
    """The kernel goes to the host that builds the modules; no host builds it twice."""
    hosts.seconds = {"modules": 0.6, "rootfs": 0.6, "kernel": 0.4, "programs": 0.4}
    hosts.obtain(PACKAGED, *(host(name, 2, 8, "build-arm64") for name in ("a", "b")))
    where = dict(hosts.built)
    assert len(hosts.built) == len(LAYERS)
    assert where["kernel"] != where["programs"]
    assert where["modules"] != where["rootfs"]
    assert hosts.has_image()


def test_modules_of_a_compiled_kernel_are_built_where_its_source_is(hosts: Hosts) -> None:
    a, b = host("a", 4, 8, "build-parisc"), host("b", 4, 8, "build-parisc")
    after = {task.name: task for task in tasks_after_kernel(SOURCE, {}, a.address)}
    assert after["modules"].only_host == a.address
    assert after["rootfs"].only_host == ""
    assert all(not task.only_host for task in tasks_after_kernel(PACKAGED, {}, a.address))
    turns = BuildTurns(Placement([a, b]))
    assert turns.take(after["modules"], lambda _: True) == (a, "a/1")
    assert turns.take(after["modules"], lambda _: True, {a.address}) is None
    turns._placement.release("a/1")
    # With the kernel in the controller's store, so is the source tree: the modules are built there.
    BuildContext.in_cache(Bus()).store.obtain("kernel", LAYERS["kernel"], vm="", build=build)
    hosts.obtain(SOURCE, a, replace(b))
    assert "modules" not in dict(hosts.built)
    assert "rootfs" in dict(hosts.built)


def test_a_compile_uses_the_cores_of_one_slot() -> None:
    needs = kernel_task(SOURCE, {}).needs
    assert [needs(host("h", cores, 64)).cores for cores in (2, 8, 16, 64)] == [2, 8, 8, 8]
    assert needs(host("h", 16, 4)).cores == 16
    assert kernel_task(PACKAGED, {}).needs(host("h", 16, 64)).cores == 1


def test_sources_of_the_controllers_host_are_built_there(hosts: Hosts) -> None:
    kernel = SOURCE.kernel.model_copy(update={"source": "tree", "tree": "/home/me/linux"})
    hosts.obtain(SOURCE.model_copy(update={"kernel": kernel}), host(*LARGE))
    assert hosts.built == []


def test_a_build_that_fails_on_a_host_is_not_repeated_elsewhere(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_recipe: Recipe, _context: BuildContext, kinds: Sequence[str]) -> None:
        hosts.built += [(kind, hosts.name_here) for kind in kinds]
        raise BuildError("make: kernel/fork.c does not compile")

    monkeypatch.setattr(prepare, "obtain_entries", fail)
    with pytest.raises(BuildError, match=r"on host large: make: kernel/fork.c does not compile"):
        hosts.obtain(SOURCE, host(*LARGE), host("b", 4, 8, "build-parisc"))
    assert [kind for kind, _ in hosts.built].count("kernel") == 1


def lose(_: object) -> None:
    raise OSError("connection closed")


def test_a_host_that_is_lost_leaves_the_build_to_the_controller(hosts: Hosts) -> None:
    hosts.broken["build_entries"] = lose
    hosts.obtain(SOURCE, host(*LARGE))
    assert not hosts.has_image()
    assert hosts.ends(EventKind.FAILED)["kernel"] == "host large was lost (OSError)"


def test_another_host_builds_what_a_lost_one_did_not(hosts: Hosts) -> None:
    def lose_large(built: object) -> object:
        # The result is dropped with the connection; the archive stays on that host.
        return lose(built) if "large" in str(built) else built

    hosts.broken["build_entries"] = lose_large
    hosts.obtain(PACKAGED, host(*LARGE), host("b", 4, 8, "build-arm64"))
    assert hosts.has_image()
    assert hosts.ends()["kernel"] == "on host b"


def test_without_compilers_another_host_builds_modules_whose_source_was_lost(hosts: Hosts) -> None:
    """Host `large` builds the kernel, and is lost when it builds the modules."""
    hosts.lacking = ["make"]

    def lose_modules(built: BuiltEntries) -> object:
        packed = built.entries[0]
        return lose(built) if packed.kind == "modules" and "large" in packed.archive else built

    hosts.broken["build_entries"] = lose_modules
    hosts.obtain(SOURCE, host(*LARGE), host("b", 4, 8, "build-parisc"))
    assert ("kernel", "large") in hosts.built
    assert ("modules", "b") in hosts.built
    assert hosts.has_image()


def test_nothing_is_built_when_the_run_ends(hosts: Hosts) -> None:
    builds = hosts.builds(host(*LARGE))
    builds._turns.close()
    with pytest.raises(HostError, match="is not built: the run ends"):
        builds.obtain(SOURCE)
    assert hosts.built == []


def change(chunk: bytes) -> bytes:
    place = len(chunk) // 2
    return chunk[:place] + bytes([chunk[place] ^ 1]) + chunk[place + 1 :]


def test_an_entry_that_changed_on_the_way_is_refused(hosts: Hosts) -> None:
    hosts.broken["read_chunk"] = change
    with pytest.raises((HostError, UsageError), match="arrived damaged"):
        hosts.obtain(SOURCE, host(*LARGE))
    assert not hosts.has_image()


def test_an_entry_that_ends_early_is_refused(hosts: Hosts) -> None:
    hosts.broken["read_chunk"] = lambda _: b""
    with pytest.raises(HostError, match=r"only 0 of [0-9]+ bytes arrived"):
        hosts.obtain(SOURCE, host(*LARGE))


def test_a_host_that_would_build_another_image_builds_nothing(hosts: Hosts) -> None:
    """Its compilers make another key. Another host is used, or this one."""
    hosts.layers["large"] = OTHER
    hosts.obtain(PACKAGED, host(*LARGE))
    assert hosts.ends(EventKind.FAILED)["kernel"] == "host large has other packages or compilers"
    assert "kernel" not in dict(hosts.built)
    hosts.obtain(PACKAGED, host(*LARGE), host("b", 4, 8, "build-arm64"))
    assert dict(hosts.built)["kernel"] == "b"
    assert hosts.has_image()


def test_two_tasks_on_one_host_get_the_kernel_once(hosts: Hosts) -> None:
    """The modules and the root file system of a packaged kernel begin at once on the host that did not build it."""
    BuildContext.in_cache(Bus()).store.obtain("kernel", LAYERS["kernel"], vm="", build=build)
    arrived, both = [], threading.Barrier(2)

    def wait(has: bool) -> bool:
        arrived.append(has)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return has

    hosts.broken["has_entry"] = wait
    hosts.obtain(PACKAGED, host(*LARGE))
    assert sorted(arrived) == [False, True]
    assert ("kernel", "large") not in hosts.built
    assert {"modules", "rootfs"} <= {kind for kind, name in hosts.built if name == "large"}


def test_transfers_of_one_name_do_not_mix(hosts: Hosts, tmp_path: Path) -> None:
    """Two controllers, or two VMs with one image, send the same content to one host at once."""
    given, on = tmp_path / "given", partial(hosts.run_on, host(*LARGE))
    given.write_bytes(os.urandom(3 * 1000))
    arrivals: list[str] = []

    def send_another(result: object) -> object:
        if not arrivals:
            hosts.broken.clear()
            arrivals.append(send_file(given, "name", on, ProgressStep(hosts.bus, "vm", "send")))
        return result

    hosts.broken["receive_chunk"] = send_another
    arrivals.append(send_file(given, "name", on, ProgressStep(hosts.bus, "vm", "send")))
    place = hosts.directory / "large" / "arrivals"
    assert [(place / name).read_bytes() for name in arrivals] == [given.read_bytes()] * 2


def test_what_a_lost_transfer_left_is_removed_after_a_day(hosts: Hosts) -> None:
    on = partial(hosts.run_on, host(*LARGE))
    names = [on("arrival", entries_on_host.begin_arrival, "name") for _ in range(2)]
    place = hosts.directory / "large" / "arrivals"
    day_ago = time.time() - 25 * 3600
    os.utime(place / names[0], (day_ago, day_ago))
    names.append(on("arrival", entries_on_host.begin_arrival, "name"))
    assert sorted(path.name for path in place.iterdir()) == sorted(names[1:])


def task(name: str, seconds: float, cores: float = 2.0) -> BuildTask:
    return BuildTask(name, "kernel", (), lambda _: ShardNeeds(name, cores, 1), seconds)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_longest_task_gets_the_next_host() -> None:
    only = host("only", 2, 8)
    turns = BuildTurns(Placement([only]))
    busy = turns.take(task("first", 1.0), lambda _: True)
    assert busy
    begun: list[str] = []

    def wait(given: BuildTask) -> None:
        taken = turns.take(given, lambda _: True)
        assert taken
        begun.append(given.vm)
        turns._placement.release(taken[1])

    threads = []
    for name, seconds in (("short", 5.0), ("long", 500.0), ("medium", 50.0)):
        threads.append(threading.Thread(target=wait, args=[task(name, seconds)], daemon=True))
        threads[-1].start()
        wait_until(lambda: len(turns._waiting) == len(threads))
    turns._placement.release(busy[1])
    for thread in threads:
        thread.join()
    assert begun == ["long", "medium", "short"]
    assert only.kept_for is None


def test_a_short_task_fills_a_host_that_a_long_one_cannot_use() -> None:
    large, small = host("large", 8, 8), host("small", 1, 8)
    turns = BuildTurns(Placement([large, small]))
    turns._placement.take(large, ShardNeeds("row", 0.5, 1))
    waiting = threading.Thread(target=lambda: turns.take(task("long", 500.0, 8.0), lambda _: True), daemon=True)
    waiting.start()
    # The large host is kept for it: no row begins there.
    wait_until(lambda: large.kept_for is not None)
    assert large.kept_for
    assert large.kept_for.vm == "long"
    assert turns._placement.choose(ShardNeeds("other", 0.5, 1)) is small
    assert turns.take(task("short", 5.0, 1.0), lambda _: True) == (small, "small/1")
    turns._placement.release("large/1")
    waiting.join()
    assert (large.kept_for, large.free_cores) == (None, 0)


def test_a_task_that_no_host_can_run_does_not_wait() -> None:
    turns = BuildTurns(Placement([host("h", 1, 8)]))
    assert turns.take(task("x", 1.0, 2.0), lambda _: True) is None
    assert turns.take(task("x", 1.0, 1.0), lambda _: False) is None
    assert turns.take(task("x", 1.0, 1.0), lambda _: True, {"tls://h"}) is None
    turns.close()
    assert turns.take(task("x", 1.0, 1.0), lambda _: True) is None


def test_a_controller_without_compilers_builds_on_a_host(hosts: Hosts) -> None:
    """The key is that of the host; smaller hosts build, too."""
    hosts.lacking, hosts.layers["controller"], hosts.layers["b"] = ["gcc-hppa-linux-gnu"], {}, OTHER
    builds = hosts.builds(host("b", 1, 8, "build-parisc"))
    builds.demand_builders([SOURCE])
    builds.obtain(SOURCE)
    context = BuildContext.in_cache(Bus())
    assert agreed_layers.find("parisc", context.store) == OTHER
    assert all(context.store.present(kind, parts) for kind, parts in OTHER.items())
    assert {name for _, name in hosts.built} == {"b"}


def test_a_controller_without_compilers_is_refused_if_no_host_builds(hosts: Hosts) -> None:
    lacking = host("b", 8, 8, "qemu-parisc")
    lacking.lacks = {"build-parisc": "missing packages: make"}
    builds = hosts.builds(lacking)
    builds.demand_builders([SOURCE])
    hosts.lacking = ["gcc-hppa-linux-gnu", "make"]
    with pytest.raises(HostError) as refused:
        builds.demand_builders([SOURCE])
    assert str(refused.value) == (
        "parisc: its image cannot be built: this host lacks gcc-hppa-linux-gnu make, and no host has "
        "build-parisc: host b: missing packages: make; install them here, or add a host that can build; "
        f"see {paths.PROGRAM} doctor"
    )
    # What is in the store needs no compiler.
    hosts._prepare(SOURCE, BuildContext.in_cache(Bus()))
    builds.demand_builders([SOURCE])


def test_a_controller_without_compilers_whose_hosts_are_lost_says_so(hosts: Hosts) -> None:
    hosts.lacking = ["make"]
    hosts.broken["build_entries"] = lose
    with pytest.raises(BuildError, match=r"no host built its kernel, .*, and this host lacks make"):
        hosts.obtain(SOURCE, host(*LARGE))


def test_an_error_on_a_host_comes_back(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "obtain_entries", lambda *_: 1 // 0)
    built = hosts.run_on(host(*LARGE), "", build_on_host.build_entries, SOURCE.model_dump_json(), ["kernel"], LAYERS)
    assert "ZeroDivisionError" in built.error
    assert not (hosts.directory / "large" / "leaving").exists()


def finish(builds: Sequence[tuple[BuildTask, BuildTask]], hosts: Sequence[Host]) -> float:
    """Return how long kernels and the modules after each take on simulated hosts, placed as BuildTurns does."""
    placement = Placement(hosts)
    turns = BuildTurns(placement)
    left: dict[BuildNeeds, BuildTask | None] = {needs_of(first): then for first, then in builds}
    running: list[tuple[float, str, BuildTask | None]] = []
    now = 0.0
    while left or running:
        for needs in sorted(left, key=lambda each: each.seconds, reverse=True):
            turns._waiting = list(left)
            found = turns._choose(needs)
            assert found
            if found[1]:
                placement.keep_no_host_for(needs)
                running.append((now + needs.seconds, found[1], left.pop(needs)))
        running.sort(key=lambda each: each[0])
        now, lane, then = running.pop(0)
        placement.release(lane)
        if then:
            left[needs_of(then)] = None
    return now


def needs_of(given: BuildTask) -> BuildNeeds:
    return BuildNeeds(given.vm, given.needs, lambda _: True, given.seconds, given.needs_kernel)


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_builds_on_ten_hosts_end_near_the_lower_bound(seed: int) -> None:
    """A third of the kernels are compiled, on two cores each; modules follow each kernel."""
    chance = random.Random(seed)
    hosts = [host(f"h{number}", chance.choice((2, 4, 8)), 32, "build-x86_64") for number in range(10)]
    builds, used = [], 0.0
    for number in range(100):
        vm, compiled = f"vm{number}", chance.random() < 1 / 3
        seconds = chance.lognormvariate(5.5, 0.4) if compiled else chance.lognormvariate(3.0, 0.3)
        cores = 2.0 if compiled else 1.0
        kernel = BuildTask(vm, "kernel", (), partial(_on, vm, cores), seconds)
        then = BuildTask(vm, "modules", (), partial(_on, vm, 2.0), chance.lognormvariate(3.3, 0.3), "", True)
        builds.append((kernel, then))
        used += seconds * cores + then.seconds * 2
    bound = max(used / sum(each.cores for each in hosts), *(first.seconds + then.seconds for first, then in builds))
    began = time.perf_counter()
    found = finish(builds, hosts)
    print(f"makespan {found / bound:.3f} of the lower bound, placed in {time.perf_counter() - began:.3f} s")
    assert found <= LARGEST_MAKESPAN * bound
    assert not any(each.running or each.kept_for for each in hosts)


def _on(vm: str, cores: float, on: Host) -> ShardNeeds:
    return ShardNeeds(vm, min(cores, on.cores), 1.0, ("build-x86_64",))
