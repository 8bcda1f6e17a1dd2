"""A run of the real command line that is killed at 20 points leaves no process behind and loses no result.

Its rows run in processes of their own.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from broken_runs import BrokenRun

from harness.core import paths
from harness.judge_injected_fault_fixture import Judge

POINTS = 20
# The witness in tests/faults/conftest.py is loaded as a plugin, because the cases are those of the matrix.
ARGUMENTS = (
    *("run", "--vm", "x86_64-debian", "--vm", "arm64-debian", "-n", "2", "-p", "faults.conftest"),
    *(str(paths.CASES / "test_guest.py"), str(paths.CASES / "test_sites.py")),
)
_WHOLE_SECONDS = 1800.0
# If a run ends before it is killed, the next is killed sooner by this factor.
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
    """Kill a run after this time, or sooner if the host has become faster; return the time and the exit status."""
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
