"""A run that is killed at 20 points leaves no process and loses no finished cell, and the next run works."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from broken_runs import BrokenRun, environment
from killed_runs import CASES, VMS

from harness.faulting import Judge

POINTS = 20

pytestmark = pytest.mark.slow


def test_killed_at_any_point(tmp_path: Path, judge_fault: Judge) -> None:
    script = Path(__file__).parent / "killed_runs.py"
    words = [sys.executable, str(script), str(tmp_path), str(POINTS)]
    ended = subprocess.run(words, env=environment(tmp_path), capture_output=True, text=True, timeout=900, check=False)
    runs = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(runs) == POINTS + 2, ended.stderr
    whole = BrokenRun(tmp_path)
    # Reading the results showed that no line is torn. All runs share one witness, so the loss is reported once.
    lost = whole.lost()
    for broken in runs[1:-1]:
        judge_fault(
            f"killed at its {broken['point']}th deed",
            expected=("", -signal.SIGKILL),
            reported=("", broken["status"]),
            lost=lost,
            orphaned=broken["orphaned"],
        )
        lost = 0
    assert runs[0]["status"] == runs[-1]["status"] == 0, whole.output
    latest = (tmp_path / "results" / "latest" / "results.jsonl").read_text().splitlines()
    assert len(latest) == CASES * len(VMS)
