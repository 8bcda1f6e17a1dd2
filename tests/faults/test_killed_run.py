"""The real command line, its rows in processes of their own, killed at 20 points: nothing outlives it or is lost."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from broken_runs import BrokenRun

from harness.core import paths
from harness.faulting import Judge

POINTS = 20
# The witness in tests/faults/conftest.py as a plugin: the cases are the matrix's own.
ARGUMENTS = (
    *("run", "--vm", "x86_64-debian", "--vm", "arm64-debian", "-n", "2", "-p", "faults.conftest"),
    *(str(paths.CASES / "test_guest.py"), str(paths.CASES / "test_sites.py")),
)
_WHOLE_SECONDS = 1800.0
# How much sooner a run is killed that had ended by itself.
QUICKER = 0.8


def test_killed_at_any_time(tmp_path: Path, judge_fault: Judge) -> None:
    run = BrokenRun(tmp_path)
    began = time.monotonic()
    assert run.begin(*ARGUMENTS).wait(_WHOLE_SECONDS) == 0, run.output
    whole, cells = time.monotonic() - began, len(run.cells)
    for number in range(1, POINTS + 1):
        seconds, status = killed(run, whole * number / (POINTS + 1))
        judge_fault(
            f"killed after {seconds:.1f} of {whole:.1f} s",
            expected=("", -signal.SIGKILL),
            reported=("", status),
            lost=run.lost(),
            orphaned=run.orphaned(),
        )
    before = len(run.cells)
    assert run.begin(*ARGUMENTS).wait(_WHOLE_SECONDS) == 0, run.output
    assert len(run.cells) == before + cells


def killed(run: BrokenRun, seconds: float) -> tuple[float, int]:
    """Kill a run after so long, or sooner where the host is quicker than it was: after how long, and its status."""
    while True:
        broken = run.begin(*ARGUMENTS)
        try:
            broken.wait(seconds)
        except subprocess.TimeoutExpired:
            broken.kill()
        status = broken.wait()
        if status:
            return seconds, status
        seconds *= QUICKER
