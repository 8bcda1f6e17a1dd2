"""SIGKILL of one of two hosts of a cluster, at all points of a run."""

from __future__ import annotations

from pathlib import Path

from cluster import ClusterHere
from test_hosts import POINTS, kill_at_points

from harness.judge_injected_fault_fixture import Judge


def test_a_host_killed_at_every_point(tmp_path: Path, judge_fault: Judge) -> None:
    cluster = ClusterHere(tmp_path)
    try:
        kill_at_points(cluster, tmp_path, judge_fault, range(1, POINTS + 1))
    finally:
        cluster.stop()
