"""A run killed at 20 points of its life: nothing outlives it, nothing that had ended is lost, the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from broken_runs import BrokenRun
from killed_runs import CASES, VMS

from harness.core import paths
from harness.faulting import Judge

POINTS = 20


def test_killed_at_any_point(tmp_path: Path, judge_fault: Judge) -> None:
    script = Path(__file__).parent / "killed_runs.py"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"PINPOINT_RESULTS": str(tmp_path / "results"), "PINPOINT_CACHE": str(tmp_path / "cache")}
    env |= {"PYTHONPATH": f"{paths.PROJECT}:{script.parent}"}
    words = [sys.executable, str(script), str(tmp_path), str(POINTS)]
    ended = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900, check=False)
    runs = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(runs) == POINTS + 2, ended.stderr
    whole = BrokenRun(tmp_path)
    # Reading the results has shown that no line is torn; all runs share one witness, so the loss is told once.
    lost = whole.lost()
    for broken in runs[1:-1]:
        judge_fault(
            f"killed at its {broken['point']}th deed",
            expected=("", -signal.SIGKILL),
            told=("", broken["status"]),
            lost=lost,
            orphaned=broken["orphaned"],
        )
        lost = 0
    assert runs[0]["status"] == runs[-1]["status"] == 0, whole.said
    latest = (tmp_path / "results" / "latest" / "results.jsonl").read_text().splitlines()
    assert len(latest) == CASES * len(VMS)
