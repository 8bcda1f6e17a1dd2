"""SIGKILL of a run that builds, freezes and thaws, or of a shard, QEMU or make, at points of its whole life.

`./pinpoint test` kills each victim at a few points, and `./pinpoint test faults` at all of them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from broken_runs import BrokenRun, environment
from killed_runs import CASES, CONTROLLERS, VMS

from harness.judge_injected_fault_fixture import Judge

POINTS = 20
# Those of `./pinpoint test`, a quarter; the rest belongs to tests/faults.
FEW = tuple(range(1, POINTS + 1, 4))
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("victim", ["controller", "controller-of-several", "worker", "QEMU", "builder"])
def test_killed_at_a_few_points(tmp_path: Path, judge_fault: Judge, victim: str) -> None:
    kill(tmp_path, judge_fault, victim, FEW)


def kill(directory: Path, judge_fault: Judge, victim: str, points: Sequence[int]) -> None:
    """Kill the victim at these points; after each, one more run in the same place must pass with all cells."""
    script = Path(__file__).parent / "killed_runs.py"
    words = [sys.executable, str(script), str(directory), victim, str(POINTS), ",".join(map(str, points))]
    ended = subprocess.run(words, env=environment(directory), capture_output=True, text=True, timeout=2400, check=False)
    runs = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(runs) == 2 * len(points) + 1, ended.stderr
    whole = BrokenRun(directory)
    directories = sorted((directory / "results").glob("2*"))
    assert all(run["status"] == 0 for run in runs[::2]), whole.output
    # Reading the results showed that no line is torn. All runs share one witness, so the loss is reported once.
    lost = whole.lost()
    for broken in runs[1::2]:
        expected = -signal.SIGKILL if victim in CONTROLLERS else expected_status(broken["struck"])
        # A victim whose work had not begun or was done is not missed: then every cell passes.
        if victim not in CONTROLLERS and broken["passed"] == CASES * len(VMS):
            expected = 0
        reported = broken["status"]
        judge_fault(
            f"{victim} killed at point {broken['point']} of {POINTS}",
            expected=("", expected),
            reported=("", reported),
            lost=lost,
            orphaned=broken["orphaned"],
        )
        lost = 0
    verdicts = {cell["verdict"] for cell in whole.cells}
    assert verdicts <= {"pass", "harness-error"}, whole.output
    latest = (directories[-1] / "results.jsonl").read_text().splitlines()
    assert len(latest) == CASES * len(VMS)
    assert all(broken["struck"] for broken in runs[1::2]), runs
    # A kill between two cells shows nothing about a cell, so it must be the exception.
    assert 2 * sum(broken["status"] != 0 for broken in runs[1::2]) > len(points), runs


def expected_status(struck: bool) -> int:
    """Return the exit status of a run whose child was killed: the host has failed."""
    return 3 if struck else 0
