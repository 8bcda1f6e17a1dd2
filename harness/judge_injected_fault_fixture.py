"""The fixture of tests that break something on purpose: each fault is recorded and counted in this run's figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.matrix.controller_run import ControllerRun
from harness.plugin import RUN
from harness.report.injected_harness_fault_results import Fault, Faults, VerdictAndExitStatus

Judge = Callable[..., None]


@pytest.fixture(scope="session")
def judge_fault(request: pytest.FixtureRequest) -> Judge:
    """`judge_fault(name, expected=(verdict, status), reported=(verdict, status), vm="", lost=0, orphaned=0)`.

    Records the fault, then checks that the run reported what was expected, and that nothing was lost or left running.
    """
    # Created now: a test may then set PINPOINT_RESULTS for the runs that it breaks.
    faults = Faults(request.config.stash[RUN].directory)

    def judge(
        name: str,
        *,
        expected: tuple[str, int],
        reported: tuple[str, int],
        vm: str = "",
        lost: int = 0,
        orphaned: int = 0,
    ) -> None:
        wanted, found = (
            VerdictAndExitStatus(verdict=verdict, status=status) for verdict, status in (expected, reported)
        )
        fault = Fault(fault=name, vm=vm, expected=wanted, reported=found, lost=lost, orphaned=orphaned)
        faults.add(fault)
        if fault.misjudged or lost or orphaned:
            pytest.fail(str(fault), pytrace=False)

    return judge


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add the figures of the faults of all workers; a run without faults has no such figures."""
    run = session.config.stash.get(RUN, None)
    # A run without a directory has no faults.
    if not isinstance(run, ControllerRun) or not run.has_directory:
        return
    faults = Faults(run.directory)
    if faults.read():
        faults.record_figures(run.figures)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line about all faults, with the directory that has them."""
    run = config.stash.get(RUN, None)
    if not isinstance(run, ControllerRun) or not run.has_directory:
        return
    kept = Faults(run.directory).read()
    if kept:
        wrong = sum(fault.misjudged for fault in kept)
        lost, orphaned = sum(fault.lost for fault in kept), sum(fault.orphaned for fault in kept)
        terminalreporter.write_line(
            f"faults: {len(kept)} injected, {wrong} misjudged, {lost} results lost, {orphaned} processes orphaned: "
            f"{run.directory.path}"
        )
