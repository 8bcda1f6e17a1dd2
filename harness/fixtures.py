"""The fixtures of cases: guests, targets, and the tools that prove where probes land."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import pytest

from harness.core import process
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.images import guest_packages_as_archive_or_disk, uprobe_struct_types
from harness.images.image import Image
from harness.landing.layout import Layout
from harness.landing.lookup.closest_symbol_round_trip import AddressConverter
from harness.landing.lookup.confirm_kernel_symbols import KernelSymbols
from harness.landing.lookup.data_check import DataReader
from harness.landing.mutants import mutant_or_honest
from harness.landing.probe_run import Kprobes
from harness.landing.sweep.sweep_fixture import Sweeps
from harness.landing.sweep.sweep_past_deadly_sites import FreshGuestFactory
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.target import Target
from harness.matrix import record_relocation_by_hand_trial as tried_trials
from harness.matrix.cells import guest_of_cell
from harness.matrix.guests import check_after_cell, loaded_targets
from harness.matrix.upstream.fixture import UpstreamTests
from harness.matrix.verify import guest_start_and_kernel_complaints as verify_guest
from harness.matrix.verify.foreign_probes_fixture import ForeignProbes
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import mutant_or_honest as breaking
from harness.pinning.protocol.schedule_fixture import Schedules
from harness.pinning.stress import StressRuns
from harness.plugin import RUN, WATCH
from harness.report import time_accounts
from harness.report.metrics_with_goals import Figure
from harness.report.relocation_by_hand_table import TrialRow
from harness.userspace.mutants import mutant_or_honest as user_mutant
from harness.userspace.uprobes_fixture import Uprobes

# The fixtures that load a target module, and the build that each loads.
_BUILDS = {
    "target": "pinpoint_target",
    "target_with_function_sections": "pinpoint_sections",
    "rebuilt": "rebuilt/pinpoint_target",
}


@pytest.fixture
def guest(request: pytest.FixtureRequest, vm: str) -> Iterator[Guest]:
    """A running guest of the cell's VM, shared by the cells of a row and checked after each.

    A kernel complaint during the cell, or anything that the cell left behind, fails the cell and discards the guest. A
    legitimate change that cannot be undone only discards the guest.
    """
    run = request.config.stash[RUN]
    running = guest_of_cell.begin_in_guest(run.fleet, request.node.stash[WATCH], _asked_for(request))
    yield running
    if process.is_stopping():
        return
    try:
        with run.bus.timed(vm, time_accounts.CHECK_UP):
            undone = check_after_cell.check_after_cell(running)
    except GuestError as lost:
        worse = _noticed(request, check_after_cell.explain_loss(running, lost))
        run.fleet.retire(vm, f"{request.node.name}: {worse}")
        raise worse from lost
    except Exception as error:
        _noticed(request, error)
        run.fleet.retire(vm, f"{request.node.name}: {error}")
        raise
    if undone:
        run.fleet.retire(vm, f"{request.node.name} left it with {undone}")


@pytest.fixture
def fresh(request: pytest.FixtureRequest, vm: str) -> Callable[..., AbstractContextManager[Guest]]:
    """Guests of the cell's VM for this case alone: `with fresh() as other`.

    Each is thawed in the state after its boot. `fresh(anew=True)` boots it, with a new KASLR slide; `fresh(cpus=2)`
    sets its number of virtual CPUs. A guest that is alive at the end is checked as the row's guest is;
    `fresh(may_die=True)` leaves the check to the case.
    """

    @contextmanager
    def begin(*, may_die: bool = False, cpus: int = 0, anew: bool = False) -> Iterator[Guest]:
        with request.config.stash[RUN].fleet.start_fresh_guest(vm, cpus=cpus, anew=anew) as running:
            request.node.stash[WATCH].guest = running
            try:
                yield running
                if not may_die:
                    check_after_cell.check_after_cell(running)
            except GuestError as lost:
                raise _noticed(request, check_after_cell.explain_loss(running, lost)) from lost
            except Exception as error:
                _noticed(request, error)
                raise

    return begin


def _noticed(request: pytest.FixtureRequest, error: Exception) -> Exception:
    """Gather evidence from the guest, which is about to stop, and return the error."""
    request.config.stash[RUN].bundle_writer.gather_evidence(request.node.stash[WATCH], error)
    return error


@pytest.fixture
def guest_or_fresh_for_mutant(request: pytest.FixtureRequest, vm: str, mutant: str) -> Iterator[Guest]:
    """The row's guest. A mutant's cell gets a guest of its own, because the mutant may kill it."""
    if not mutant:
        yield request.getfixturevalue("guest")
        return
    with request.config.stash[RUN].fleet.start_fresh_guest(vm) as other:
        request.node.stash[WATCH].guest = other
        yield other


@pytest.fixture
def target(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Target]:
    """The target module `pinpoint_target`, loaded."""
    yield from _loaded(request, guest, "target")


@pytest.fixture
def target_with_function_sections(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Target]:
    """The target module `pinpoint_sections`, loaded: the same functions, each in a section of its own."""
    yield from _loaded(request, guest, "target_with_function_sections")


@pytest.fixture
def rebuilt(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Target]:
    """The other build of `pinpoint_target`, loaded: the same functions in another layout."""
    yield from _loaded(request, guest, "rebuilt")


@pytest.fixture
def load_target(guest: Guest) -> Iterator[Callable[[str], Target]]:
    """Loads a module of the own tree until the cell ends: `target = load_target("ring")`."""
    with ExitStack() as loaded:
        yield lambda name: loaded.enter_context(Target(guest, name))


def _loaded(request: pytest.FixtureRequest, guest: Guest, fixture: str) -> Iterator[Target]:
    loaded = loaded_targets.acquire(guest, _BUILDS[fixture])
    yield loaded
    loaded_targets.keep_if_alone_or_unload(loaded, alone=len(_asked_for(request)) == 1)


def _asked_for(request: pytest.FixtureRequest) -> list[str]:
    """The builds of the target modules that this cell's fixtures load."""
    return [build for name, build in _BUILDS.items() if name in request.fixturenames]


@pytest.fixture
def layout(request: pytest.FixtureRequest, guest: Guest, image_of: Callable[[str], Image]) -> Layout:
    """The addresses in this guest according to the ELF files of the kernel and of the targets that the case loaded."""
    names = [name for name in _BUILDS if name in request.fixturenames]
    return Layout(guest, [request.getfixturevalue(name) for name in names], image_of)


@pytest.fixture
def kprobes(request: pytest.FixtureRequest, layout: Layout, mutant: str) -> Iterator[Kprobes]:
    """Probes in this guest: `with kprobes.on(site, ...) as probes`. In a mutant's cell they are broken on purpose."""
    with Kprobes(layout, mutant_or_honest(mutant)) as tool:
        request.node.stash[WATCH].kprobes = tool
        yield tool


@pytest.fixture
def uprobes(request: pytest.FixtureRequest, guest: Guest, mutant: str) -> Uprobes:
    """Uprobes in this guest: `with uprobes.on(file, sites, way) as run`; in a mutant's cell broken on purpose."""
    types = uprobe_struct_types.obtain_struct_types(guest.image, request.config.stash[RUN].fleet.build_context)
    tool = Uprobes(guest, types, user_mutant(mutant))
    request.node.stash[WATCH].uprobes = tool
    return tool


@pytest.fixture
def kprobes_in(request: pytest.FixtureRequest, mutant: str) -> Callable[..., Kprobes]:
    """Probes in a guest that the case booted, or with targets that it loaded: `kprobes_in(guest, target, ...)`."""

    def tool(running: Guest, *targets: Target) -> Kprobes:
        made = Kprobes(Layout(running, targets), mutant_or_honest(mutant))
        request.node.stash[WATCH].kprobes = made
        return made

    return tool


@pytest.fixture
def probe_loaders(probe_loaders_in: Callable[[Guest], Loaders], guest: Guest) -> Iterator[Loaders]:
    """Loaders in this guest: `with probe_loaders(LoaderOrder(...)) as loader`, broken on purpose in a mutant's cell.

    With --loader they are the user's.
    """
    with probe_loaders_in(guest) as tool:
        yield tool


@pytest.fixture
def probe_loaders_in(request: pytest.FixtureRequest, mutant: str) -> Callable[[Guest], Loaders]:
    """The same in a guest that the case chooses: `with probe_loaders_in(guest) as loaders`."""
    text = request.config.option.loader
    command = ForeignLoaderProgramAndArguments.parse_command_line(text) if text else None
    return lambda guest: Loaders(guest, breaking(mutant), command)


@pytest.fixture
def sweeps(
    request: pytest.FixtureRequest, layout: Layout, fresh: FreshGuestFactory, mutant: str, sweep_depth: Depth
) -> Sweeps:
    """Sweeps of this VM; each returns the result of every site.

    `sweeps.sweep_disabled()`, `sweeps.sweep_armed_on_fresh_guests()`
    """
    return Sweeps(
        layout,
        fresh,
        request.config.stash[RUN].bus,
        mutant=mutant_or_honest(mutant),
        depth=sweep_depth,
    )


@pytest.fixture
def sweep_depth(request: pytest.FixtureRequest) -> Depth:
    """How much of each kernel is registered: `--sweep`."""
    return Depth(request.config.option.sweep)


@pytest.fixture
def foreign_probes(request: pytest.FixtureRequest, guest: Guest, mutant: str) -> ForeignProbes:
    """Modules and commands that report nothing, judged here.

    `foreign_probes.judge_module(name, site).prove_exactly_these_probes(probes)`
    """
    return ForeignProbes(guest, mutant, request.config.stash[RUN].fleet.build_context)


@pytest.fixture
def guest_with_packages(request: pytest.FixtureRequest, vm: str) -> Callable[..., AbstractContextManager[Guest]]:
    """A guest of its own that has Debian packages in a chroot: `with guest_with_packages("bpftrace") as guest`.

    `suite=` takes them from another release. Skips on a kernel of our own configuration: large packages are on a disk,
    which only Debian's modules can mount. Skips if Debian has no such package for the architecture.
    """
    if request.config.stash[RUN].fleet.image(vm).recipe.kernel.source != "debian-binary":
        pytest.skip(f"{vm} has no virtio_blk, squashfs and overlay to mount a disk of Debian packages with")

    @contextmanager
    def begin(*packages: str, suite: str = "") -> Iterator[Guest]:
        run = request.config.stash[RUN]
        image, context = run.fleet.image(vm), run.fleet.build_context
        lacking = guest_packages_as_archive_or_disk.packages_that_debian_lacks(image.recipe, packages, context, suite)
        if lacking:
            pytest.skip(f"Debian has no {', '.join(lacking)} for {image.recipe.architecture.debian}")
        wanted = guest_packages_as_archive_or_disk.obtain_packed_tools(image.recipe, packages, context, suite)
        with verify_guest.start_guest(image, context, run.fleet.new_console_log_path(vm), wanted) as guest:
            request.node.stash[WATCH].guest = guest
            check_after_cell.record_state_before_first_cell(guest)
            try:
                yield guest
                check_after_cell.check_after_cell(guest)
            except Exception as error:
                _noticed(request, error)
                raise

    return begin


@pytest.fixture
def foreign_probes_with_packages(
    request: pytest.FixtureRequest, guest_with_packages: Callable[..., AbstractContextManager[Guest]], mutant: str
) -> Callable[..., AbstractContextManager[ForeignProbes]]:
    """Foreign probes in a guest of its own that has Debian packages.

    `with foreign_probes_with_packages("bpftrace") as foreign`. `suite=` takes them from another release.
    """

    @contextmanager
    def begin(*packages: str, suite: str = "") -> Iterator[ForeignProbes]:
        with guest_with_packages(*packages, suite=suite) as guest:
            yield ForeignProbes(guest, mutant, request.config.stash[RUN].fleet.build_context)

    return begin


@pytest.fixture
def upstream_tests(request: pytest.FixtureRequest, vm: str, fresh: FreshGuestFactory, mutant: str) -> UpstreamTests:
    """The kernel's own tests of kprobes and uprobes: `upstream_tests.run_selftest("kprobe/profile.tc")`."""
    fleet = request.config.stash[RUN].fleet
    return UpstreamTests(fleet.image(vm), fleet.build_context, fresh, mutant)


@pytest.fixture
def address_converter(layout: Layout, mutant: str) -> AddressConverter:
    """Converts addresses to the closest symbol + offset and back: `address_converter.prove_round_trip(sites)`."""
    return AddressConverter(layout, mutant_or_honest(mutant))


@pytest.fixture
def kernel_symbols(layout: Layout, mutant: str) -> KernelSymbols:
    """Compares the kernel's symbols with other tables in its file: `kernel_symbols.confirm()`."""
    return KernelSymbols(layout, mutant_or_honest(mutant))


@pytest.fixture
def data_reader(layout: Layout, mutant: str) -> DataReader:
    """Reads data by its symbol inside the guest and outside of it: `data_reader.prove_datum(datum, value)`."""
    return DataReader(layout, mutant_or_honest(mutant))


@pytest.fixture
def schedules(request: pytest.FixtureRequest, guest: Guest, mutant: str) -> Schedules:
    """Schedules of loading and removal, played in this guest.

    `schedules.play_each_schedule(schedules.schedules_to_play())`, `schedules.play_line("open remove read")`
    """
    options = request.config.option
    return Schedules(Loaders(guest, breaking(mutant)), options.schedules == "all", options.schedule)


@pytest.fixture
def stress_runs(request: pytest.FixtureRequest, mutant: str) -> StressRuns:
    """A race without gates: `stress_runs.race()`, on a guest with two virtual CPUs if its kernel is built for SMP."""
    fresh, guest = request.getfixturevalue("fresh"), request.getfixturevalue("guest")
    return StressRuns(guest, fresh, breaking(mutant), request.config.option.stress)


@pytest.fixture
def figure(request: pytest.FixtureRequest, vm: str) -> Callable[..., Figure]:
    """Record a figure of this VM: `figure(name, value, unit, goal="at most N")`; a mutant's cell records none."""
    honest = not request.node.stash[WATCH].identity.mutant
    return partial(request.config.stash[RUN].figures.add, vm=vm, keep=honest)


@pytest.fixture
def record_relocation_trial(request: pytest.FixtureRequest, vm: str) -> Callable[..., TrialRow]:
    """Record a trial of relocation by hand in the trial table: `record_relocation_trial(trial, headline=True)`."""
    return partial(tried_trials.record_trial, request.config.stash[RUN].trial_table, vm)


@pytest.fixture
def image_of(request: pytest.FixtureRequest) -> Callable[[str], Image]:
    """The image of another VM, for cases that compare kernels."""
    return request.config.stash[RUN].fleet.image
