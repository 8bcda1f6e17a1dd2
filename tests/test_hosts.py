"""Rows run on the hosts of a cluster; here the hosts are processes with caches of their own. No guest boots."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from broken_runs import BrokenRun
from cluster import ClusterHere, make_certificates
from test_matrix import CONFTEST

from harness.judge_injected_fault_fixture import Judge
from harness.matrix.cell_shards.engine import ShardNeeds
from harness.matrix.hosts.host_placement import Host, Placement

VMS = ("arm64-debian", "x86_64-debian")
CASES = 6
POINTS = 10
# Those of `./pinpoint test`; tests/faults has all.
FEW = (2, 5, 8)
LARGEST_MAKESPAN = 1.2
# There is no image to send: no guest boots.
NO_IMAGES = """
import harness.matrix.hosts.image_sender as image_sender
image_sender.ImageSender.send = lambda *_, **_named: None
image_sender.ImageSender.own_with_images = lambda sender, _: sender._own
"""
CASE = f"""
import os
import time
import pytest
from harness.core import paths

@pytest.mark.parametrize("number", range({CASES}))
def test_it(guest, number):
    time.sleep(0.4)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHere]:
    made = ClusterHere(tmp_path_factory.mktemp("cluster"))
    try:
        yield made
    finally:
        made.stop()


def start(cluster: ClusterHere, directory: Path, case: str = CASE, *arguments: str) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    (directory / "conftest.py").write_text(CONFTEST + NO_IMAGES)
    (directory / "test_case.py").write_text(case)
    (directory / "pytest.ini").touch()
    options = [f"--scheduler={cluster.address}", f"--scheduler-tls={cluster.tls}", *(f"--vm={vm}" for vm in VMS)]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(directory),
            *options,
            *arguments,
            str(directory),
        ],
        cwd=directory,
        env=cluster.variables(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = run.communicate(timeout=600)
    return run.returncode, output


def cells_of_last_run(directory: Path) -> list[dict[str, Any]]:
    results = sorted(directory.glob("results/2*/results.jsonl"))[-1]
    return [json.loads(line) for line in results.read_text().splitlines()]


def demand_workers(cluster: ClusterHere, *names: str) -> None:
    for name in names:
        if name not in cluster.running:
            cluster.start_worker(name)
    cluster.wait_for_workers(len(cluster.running) - 1)


@pytest.mark.slow
def test_rows_run_on_hosts_and_everything_comes_back(cluster: ClusterHere, tmp_path: Path) -> None:
    demand_workers(cluster, "a", "b")
    case = """
from harness.core import paths
from harness.plugin import RUN

def test_where(guest, vm, request):
    time.sleep(2)
    run = request.config.stash[RUN]
    (run.directory.path / "console" / f"{vm}.log").write_text(str(paths.cache()))
    run.figures.add("measured", 1, "times", vm=vm)

def test_fails(guest):
    raise Missed("elsewhere")
"""
    head = "import time\nfrom harness.landing.landing_judgment import Missed\n"
    status, output = ended(start(cluster, tmp_path, head + case))
    assert status == 1, output
    latest = (tmp_path / "results" / "latest").resolve()
    cells = cells_of_last_run(tmp_path)
    assert sorted((cell["case"], cell["vm"], cell["verdict"]) for cell in cells) == [
        *(("test_fails", vm, "fail") for vm in VMS),
        *(("test_where", vm, "pass") for vm in VMS),
    ]
    # Each host ran one row, in its own cache; console, figures and bundles came back.
    caches = {(latest / "console" / f"{vm}.log").read_text() for vm in VMS}
    assert caches == {str(cluster.directory / name / "cache") for name in ("a", "b")}
    assert sorted(path.parent.parent.name for path in latest.rglob("bundle.json")) == list(VMS)
    assert all((latest / cell["bundle"] / "README.md").is_file() for cell in cells if cell["bundle"])
    assert (latest / "figures.jsonl").read_text().count('"measured"') == 2
    assert not (latest / "shards").exists()
    lanes = {json.loads(line)["worker"] for line in (latest / "timeline.jsonl").read_text().splitlines()}
    assert {"a/1", "b/1"} <= lanes
    assert not [path for name in ("a", "b") for path in (cluster.directory / name / "cache" / "shards").rglob("*.log")]


@pytest.mark.slow
def test_a_host_killed(cluster: ClusterHere, tmp_path: Path, judge_fault: Judge) -> None:
    kill_at_points(cluster, tmp_path, judge_fault, FEW)


def kill_at_points(cluster: ClusterHere, directory: Path, judge_fault: Judge, points: Sequence[int]) -> None:
    """Kill one of two hosts when so many of the cells have ended; each cell must be reported exactly once."""
    lost = 0
    for point in points:
        demand_workers(cluster, "a", "b")
        run = start(cluster, directory / str(point))
        wanted = max(1, point * CASES * len(VMS) // (POINTS + 1))
        wait_for_cells(directory / str(point), wanted, run)
        cluster.kill("a")
        status, output = ended(run)
        cells = cells_of_last_run(directory / str(point))
        reported = Counter((cell["case"], cell["vm"]) for cell in cells)
        verdicts = Counter(cell["verdict"] for cell in cells)
        wrong = len(VMS) * CASES - len(reported) + sum(reported.values()) - len(reported)
        assert set(verdicts) <= {"pass", "harness-error"}, output
        expected = 3 if verdicts["harness-error"] else 0
        lost += verdicts["harness-error"]
        judge_fault(
            f"a host killed at point {point} of {POINTS}",
            expected=("", expected),
            reported=("", status),
            lost=wrong,
            orphaned=BrokenRun(cluster.directory / "a").orphaned(),
        )
        assert verdicts["harness-error"] <= 1
        assert not verdicts["harness-error"] or "was on host a, which is gone" in output
    # A kill between two cells shows nothing about a cell, so it must be the exception.
    assert 2 * lost >= len(points)


def wait_for_cells(directory: Path, count: int, run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while sum(len(file.read_text().splitlines()) for file in directory.glob("results/2*/results.jsonl")) < count:
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)


@pytest.mark.slow
def test_the_first_failure_ends_the_run_on_all_hosts(cluster: ClusterHere, tmp_path: Path) -> None:
    demand_workers(cluster, "a", "b")
    case = """
import time

def test_a(guest, vm):
    time.sleep(200 if vm == "x86_64-debian" else 0)
    assert False
"""
    began = time.monotonic()
    status, output = ended(start(cluster, tmp_path, case, "-x"))
    assert status == 1
    assert time.monotonic() - began < 100
    assert [(cell["vm"], cell["verdict"]) for cell in cells_of_last_run(tmp_path)] == [("arm64-debian", "fail")]
    assert "did not run  test_a on x86_64-debian" in output
    assert shards_on(cluster) == []


@pytest.mark.slow
def test_a_controller_that_is_gone_ends_the_processes_on_hosts(cluster: ClusterHere, tmp_path: Path) -> None:
    demand_workers(cluster, "a", "b")
    run = start(cluster, tmp_path, "import time\ndef test_a(guest): time.sleep(1000)\n")
    end = time.monotonic() + 120
    while len(shards_on(cluster)) < len(VMS):
        assert time.monotonic() < end
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    while shards_on(cluster):
        assert time.monotonic() < end + 120
        time.sleep(0.5)


@pytest.mark.slow
def test_a_scheduler_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    cluster = ClusterHere(tmp_path)
    try:
        demand_workers(cluster, "a", "b")
        run = start(cluster, tmp_path / "run", "import time\ndef test_a(guest): time.sleep(1000)\n")
        end = time.monotonic() + 240
        while len(shards_on(cluster)) < len(VMS):
            assert time.monotonic() < end
            time.sleep(0.2)
        cluster.kill("scheduler")
        status, output = ended(run)
        assert status == 3, output
        assert "the scheduler of the cluster is gone; start it again, and the run" in output
        while shards_on(cluster):
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        cluster.stop()


def shards_on(cluster: ClusterHere) -> list[int]:
    """Return the processes of shards on the hosts of a cluster."""
    found = []
    for name in ("a", "b"):
        for process in BrokenRun(cluster.directory / name).processes():
            try:
                words = Path(f"/proc/{process}/cmdline").read_bytes()
            except OSError:
                continue
            found += [process] if b"\0shard\0" in words else []
    return found


@pytest.mark.slow
def test_strangers_are_refused(cluster: ClusterHere, tmp_path: Path) -> None:
    """A controller and a worker without a certificate of the cluster's authority are refused in one line."""
    run = start(cluster, tmp_path, CASE, f"--scheduler={cluster.address.replace('tls:', 'tcp:')}")
    assert "is not protected by TLS" in ended(run)[1]
    make_certificates(tmp_path / "other")
    status, output = ended(start(cluster, tmp_path, CASE, f"--scheduler-tls={tmp_path / 'other'}"))
    assert status == 3, output
    assert "cannot be reached" in output
    worker = subprocess.run(
        [sys.executable, "-P", "-m", "harness", "worker", cluster.address, "--tls", str(tmp_path / "other")],
        env={**cluster.variables(tmp_path), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert worker.returncode != 0
    log = (cluster.directory / "scheduler.log").read_text()
    assert "TLS handshake failed" in log, log[-3000:]


def host(name: str, cores: float, gib: float, *abilities: str) -> Host:
    return Host(f"tls://{name}", name, cores, gib, frozenset(abilities), 1000)


def test_a_process_goes_where_it_runs_best() -> None:
    fast, large = host("fast", 4, 8, "kvm-arm64", "qemu-arm64"), host("large", 8, 8, "qemu-arm64", "qemu-parisc")
    placement = Placement([large, fast])
    arm = ShardNeeds("arm64-debian", 2, 1, ("kvm-arm64", "qemu-arm64"))
    assert [placement.take(placement.choose(arm) or large, arm) for _ in range(3)] == ["fast/1", "fast/2", "large/1"]
    placement.release("fast/1")
    assert placement.choose(arm) is fast
    assert placement.take(fast, arm) == "fast/1"
    parisc = ShardNeeds("parisc", 1, 7.5, ("kvm-parisc", "qemu-parisc"))
    assert placement.choose(parisc) is None
    assert placement.refusal(parisc) == ""
    large.lacks = {"qemu-s390x": "s390x: accelerator tcg does not work: no canary"}
    assert placement.refusal(ShardNeeds("s390x", 1, 1, ("qemu-s390x",))) == (
        "no host has qemu-s390x, 1 cores and 1.0 GiB: host large: s390x: accelerator tcg does not work: no canary; "
        "host fast: it has no qemu-s390x"
    )
    assert placement.refusal(ShardNeeds("parisc", 1, 9, ("qemu-parisc",))) == (
        "no host has qemu-parisc, 1 cores and 9.0 GiB: host large: it has 8 cores and 8.0 GiB; "
        "host fast: it has no qemu-parisc"
    )
    large.most_lanes = 0
    assert "host large: it is gone" in placement.refusal(parisc)


def test_an_image_that_is_there_decides_among_equals() -> None:
    first, second = host("first", 4, 8, "qemu-arm64"), host("second", 4, 8, "qemu-arm64")
    second.images.add("arm64-debian")
    placement = Placement([first, second])
    assert placement.choose(ShardNeeds("arm64-debian", 1, 1, ("qemu-arm64",))) is second
    assert placement.choose(ShardNeeds("other", 1, 1, ("qemu-arm64",))) is first


def makespan(rows: Sequence[tuple[ShardNeeds, float]], hosts: Sequence[Host]) -> float:
    """Return how long a run of these rows takes, placed as the run loop does: the longest first."""
    placement, waiting = Placement(hosts), sorted(rows, key=lambda row: row[1], reverse=True)
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        left = []
        for needs, seconds in waiting:
            if found := placement.choose(needs):
                heapq.heappush(running, (now + seconds, placement.take(found, needs)))
            else:
                left.append((needs, seconds))
        waiting = left
        now, lane = heapq.heappop(running)
        placement.release(lane)
    return now


def lower_bound(rows: Sequence[tuple[ShardNeeds, float]], hosts: Sequence[Host]) -> float:
    """Return a duration that no placement can beat.

    It is that of the longest row, or the core and GiB seconds of all rows that only some hosts can run, over what these
    hosts have.
    """
    bound = max(seconds for _, seconds in rows)
    for wanted in {needs.abilities for needs, _ in rows} | {()}:
        of_rows = [(needs, seconds) for needs, seconds in rows if not wanted or needs.abilities == wanted]
        able = [each for each in hosts if not wanted or each.abilities & set(wanted)]
        used: Mapping[str, float] = {
            "cores": sum(needs.cores * seconds for needs, seconds in of_rows),
            "gib": sum(needs.gib * seconds for needs, seconds in of_rows),
        }
        bound = max(bound, *(used[what] / sum(getattr(each, what) for each in able) for what in used))
    return bound


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_rows_on_ten_hosts_end_near_the_lower_bound(seed: int) -> None:
    chance = random.Random(seed)
    architectures = ("x86_64", "arm64", "i386", "parisc")
    hosts = [
        host(
            f"h{number}",
            chance.choice((1, 2, 4)),
            chance.choice((16, 32)),
            *(f"qemu-{name}" for name in architectures[: 2 + number % 3]),
        )
        for number in range(10)
    ]
    rows = []
    for number in range(100):
        name = chance.choice(architectures)
        needs = ShardNeeds(f"vm{number}", chance.choice((0.5, 0.5, 1.0)), chance.choice((1.0, 1.5)), (f"qemu-{name}",))
        rows.append((needs, chance.lognormvariate(5.0, 0.5)))
    began = time.perf_counter()
    found, bound = makespan(rows, hosts), lower_bound(rows, hosts)
    spent = time.perf_counter() - began
    print(f"makespan {found / bound:.3f} of the lower bound, placed in {spent:.3f} s")
    assert found <= LARGEST_MAKESPAN * bound
    assert not any(each.running for each in hosts)


def test_this_process_imports_nothing_of_dask() -> None:
    script = (
        "import sys, harness.plugin, harness.cli_runs; sys.exit(any('distributed' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ}, check=False).returncode == 0
