"""Empties sparse files, and reports what the fuzz tests measured, in the summary and as figures of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sparse_files
from fuzzing import LONGEST_SECONDS, MOST_MIB, PROPERTY

from harness.matrix.controller_run import ControllerRun
from harness.plugin import RUN


@pytest.fixture(autouse=True)
def _sparse_files_end_with_the_test() -> Iterator[None]:
    yield
    sparse_files.empty_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line about all fuzz tests of the run and add their figures, if there were any."""
    measured: list[dict[str, Any]] = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        # A test's properties are in the reports of all its phases.
        if name == PROPERTY and report.when == "call"
    ]
    run = config.stash.get(RUN, None)
    if not measured or not isinstance(run, ControllerRun) or not run.has_directory:
        return
    inputs, tracebacks, hangs = (sum(each[name] for each in measured) for name in ("inputs", "tracebacks", "hangs"))
    slowest, peak = (max(each[name] for each in measured) for name in ("slowest_seconds", "peak_mib"))
    run.figures.add("fuzz.inputs", inputs, "inputs")
    run.figures.add("fuzz.tracebacks", tracebacks, "inputs", goal="0")
    run.figures.add("fuzz.hangs", hangs, f"inputs of more than {LONGEST_SECONDS:.0f} s", goal="0")
    run.figures.add("fuzz.peak_mib", round(peak, 1), "MiB", goal=f"at most {MOST_MIB}")
    terminalreporter.write_line(
        f"fuzz: {inputs} inputs, {tracebacks} tracebacks, {hangs} hangs (slowest input {slowest:.2f} s), "
        f"peak memory {peak:.0f} MiB"
    )
