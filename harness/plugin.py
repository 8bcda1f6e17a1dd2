"""The pytest plugin: options, fixtures, and the run of rows and cells. What it decides stands in harness/matrix."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest

from harness.core.errors import GuestError, PinpointError
from harness.guest.guest import Guest
from harness.images.image import Image
from harness.landing.conversion import Conversions
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, MUTANTS
from harness.landing.probing import ProbingIn
from harness.landing.reading import Readings
from harness.landing.sweep_guests import Fresh
from harness.landing.sweeping import Sweeping
from harness.landing.target import Target
from harness.matrix import cells, checkup, rows, selection, workers
from harness.matrix import tried as tried_trials
from harness.matrix.run import MatrixRun
from harness.report.figures import Figure
from harness.report.trials import TrialRow
from harness.verdict.words import Verdict

RUN = pytest.StashKey[MatrixRun]()
WATCH = pytest.StashKey[cells.CellWatch]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vm` and `--accel`, as the command line has them."""
    group = parser.getgroup("pinpoint")
    group.addoption("--vm", action="append", default=[], metavar="NAME", help="a VM to run on; again for more")
    group.addoption("--accel", default=None, metavar="NAME", help="force an accelerator: tcg or kvm")
    group.addoption("--sweep", choices=("sample", "all"), default="sample", help="arm some functions, or all")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the recipes; a broken one ends the run before anything is built."""
    for marker in selection.MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        config.stash[RUN] = run = MatrixRun(config)
    except PinpointError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(run, "pinpoint-run")
    workers.keep_rows_together(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One cell a VM and mutant for each case that uses `vm`."""
    selection.parametrize(metafunc, list(metafunc.config.stash[RUN].recipes))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Cells of one row share a guest, and so a worker."""
    workers.mark_row(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the items in rows and skip the cells whose VM lacks a trait."""
    run = config.stash[RUN]
    selection.skip_cells_without_traits(items, run.recipes)
    items[:] = selection.in_rows(items, run.rows)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run rows as they become ready. Leaves pytest-xdist and a mere collection to pytest's own loop."""
    config = session.config
    if config.option.collectonly or session.testsfailed:
        return None
    run = config.stash[RUN]
    run.collected(session.items)
    if workers.is_controller(config) or workers.is_worker(config):
        return None
    rows.run(session, run.fleet, run.speak)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Watch each cell from its first phase; after the last of a row its guest goes."""
    cell = selection.cell_of(item)
    if cell is None:
        return (yield)
    run = item.config.stash[RUN]
    item.stash[WATCH] = cells.CellWatch(cell, run.recipes[cell.vm].traits.model_dump())
    result = yield
    if nextitem is None or selection.vm_of(nextitem) != cell.vm:
        run.fleet.retire(cell.vm)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Turn a mutant's cell round: it holds if the case caught the mutant."""
    watch = item.stash.get(WATCH, None)
    if watch is None or not watch.identity.mutant:
        return (yield)
    try:
        yield
    except Exception as error:
        cells.demand_caught(watch, error)
        return None
    return cells.demand_caught(watch, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Gather each phase's error into the cell's verdict; hang the finished cell on its last report."""
    report = yield
    watch = item.stash.get(WATCH, None)
    if watch is None:
        return report
    if call.excinfo is not None:
        watch.judge(call.excinfo.value)
        if isinstance(call.excinfo.value, cells.TOLD_PLAINLY):
            report.longrepr = f"{item.nodeid}\n{call.excinfo.value}"
    if report.when == "teardown":
        run = item.config.stash[RUN]
        survived = run.survivors(watch)
        if survived:
            watch.worse(Verdict.FAIL, survived)
            if report.outcome == "passed":
                report.outcome, report.longrepr = "failed", survived
        run.ended(watch)
        report.pinpoint_cell = watch.record().model_dump(mode="json")  # type: ignore[attr-defined]
        watch.let_go()
    return report


@pytest.fixture
def guest(request: pytest.FixtureRequest, vm: str) -> Iterator[Guest]:
    """A running guest of the cell's VM, shared by the cells of a row; checked and left clean after each.

    What the kernel complained of while the cell ran, and what the cell left behind, fail the cell and cost the guest.
    """
    run = request.config.stash[RUN]
    running = run.fleet.guest(vm)
    request.node.stash[WATCH].guest = running
    yield running
    try:
        checkup.end(running)
    except GuestError as lost:
        run.fleet.retire(vm)
        raise checkup.last_words(running, lost) from lost
    except Exception:
        run.fleet.retire(vm)
        raise


@pytest.fixture
def fresh(request: pytest.FixtureRequest, vm: str) -> Callable[..., AbstractContextManager[Guest]]:
    """Guests of the cell's VM for this case alone: `with fresh() as other`. Each boots anew, and KASLR slides it anew.

    One that is alive at the end is checked as the row's guest is; `fresh(may_die=True)` leaves that to the case.
    """

    @contextmanager
    def boot(*, may_die: bool = False) -> Iterator[Guest]:
        with request.config.stash[RUN].fleet.fresh(vm) as running:
            request.node.stash[WATCH].guest = running
            try:
                yield running
                if not may_die:
                    checkup.end(running)
            except GuestError as lost:
                raise checkup.last_words(running, lost) from lost

    return boot


@pytest.fixture
def target(guest: Guest) -> Iterator[Target]:
    """The target module `pinpoint_target`, loaded for this cell."""
    with Target(guest, "pinpoint_target") as loaded:
        yield loaded


@pytest.fixture
def sections(guest: Guest) -> Iterator[Target]:
    """`pinpoint_sections`: the same functions, each in a section of its own, loaded for this cell."""
    with Target(guest, "pinpoint_sections") as loaded:
        yield loaded


@pytest.fixture
def rebuilt(guest: Guest) -> Iterator[Target]:
    """`pinpoint_target` in its other build, loaded for this cell: the same functions in another layout."""
    with Target(guest, "other/pinpoint_target") as loaded:
        yield loaded


@pytest.fixture
def layout(request: pytest.FixtureRequest, guest: Guest, image_of: Callable[[str], Image]) -> Layout:
    """Where the ELF files say that everything is in this guest, with the targets this case has loaded."""
    names = [name for name in ("target", "sections", "rebuilt") if name in request.fixturenames]
    return Layout(guest, [request.getfixturevalue(name) for name in names], image_of)


@pytest.fixture
def probing(request: pytest.FixtureRequest, layout: Layout, mutant: str) -> Iterator[ProbingIn]:
    """Probes in this guest: `with probing.on(site, ...) as probes`. In a mutant's cell they are broken on purpose."""
    with ProbingIn(layout, MUTANTS[mutant] if mutant else HONEST) as tool:
        request.node.stash[WATCH].probing = tool
        yield tool


@pytest.fixture
def probing_in(request: pytest.FixtureRequest, mutant: str) -> Callable[..., ProbingIn]:
    """Probes in a guest the case has booted, or with targets it has loaded itself: `probing_in(guest, target, ...)`."""

    def tool(running: Guest, *targets: Target) -> ProbingIn:
        made = ProbingIn(Layout(running, targets), MUTANTS[mutant] if mutant else HONEST)
        request.node.stash[WATCH].probing = made
        return made

    return tool


@pytest.fixture
def sweeping(request: pytest.FixtureRequest, layout: Layout, fresh: Fresh, mutant: str) -> Sweeping:
    """Sweeps of this VM: `sweeping.resolved()`, `sweeping.armed()`; each gives what became of every site."""
    return Sweeping(
        layout,
        fresh,
        request.config.stash[RUN].bus,
        mutant=MUTANTS[mutant] if mutant else HONEST,
        everything=request.config.option.sweep == "all",
    )


@pytest.fixture
def conversions(layout: Layout, mutant: str) -> Conversions:
    """Addresses into closest symbol + offset and back: `conversions.prove(sites)`."""
    return Conversions(layout, MUTANTS[mutant] if mutant else HONEST)


@pytest.fixture
def readings(layout: Layout, mutant: str) -> Readings:
    """Data by its symbol, read inside the guest and outside of it: `readings.prove(datum, value)`."""
    return Readings(layout, MUTANTS[mutant] if mutant else HONEST)


@pytest.fixture
def figure(request: pytest.FixtureRequest, vm: str) -> Callable[..., Figure]:
    """Keep a measured figure of this VM: `figure(name, value, unit, goal="at most N")`; none of a mutant's cell."""
    honest = not request.node.stash[WATCH].identity.mutant
    return partial(request.config.stash[RUN].figures.add, vm=vm, keep=honest)


@pytest.fixture
def tried(request: pytest.FixtureRequest, vm: str) -> Callable[..., TrialRow]:
    """Keep a trial of relocation by hand in the trial table: `tried(trial, headline=True)`."""
    return partial(tried_trials.keep, request.config.stash[RUN].trials, vm)


@pytest.fixture
def image_of(request: pytest.FixtureRequest) -> Callable[[str], Image]:
    """The image of another VM, for cases that compare kernels."""
    return request.config.stash[RUN].fleet.image
