"""SIGKILL of a run that builds, freezes and thaws, and of a shard, QEMU and make: 20 points each."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_faults_killed import POINTS, kill

from harness.judge_injected_fault_fixture import Judge


@pytest.mark.parametrize("victim", ["controller", "controller-of-several", "worker", "QEMU", "builder"])
def test_killed_at_every_point(tmp_path: Path, judge_fault: Judge, victim: str) -> None:
    kill(tmp_path, judge_fault, victim, range(1, POINTS + 1))
