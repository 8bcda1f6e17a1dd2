"""Whole runs in which QEMU's monitor falls silent, an SSH server lies, the clock jumps, and two runs share a store."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from broken_runs import BrokenRun, environment
from killed_runs import CONFTEST, VMS

from harness.judge_injected_fault_fixture import Judge

pytestmark = pytest.mark.slow

BYSTANDER = "\n\ndef test_bystander(guest):\n    assert guest.monitor.execute('query-status')\n"
# SIGSTOP: the process, its sockets and its console are there, and nothing answers.
SILENT = """
import os
import signal
import harness.guest.monitor as monitor


def test_fault(guest):
    monitor._COMMAND_SECONDS = 3.0
    os.kill(guest.pid, signal.SIGSTOP)
    guest.monitor.execute("query-status")
"""
# The server accepts the login, opens channels and answers heartbeats, but never answers a request for a program.
LYING = """
import time
import paramiko
from harness.core.deadline import Deadline
from ssh_server import Dropbear, Server


def test_fault(guest, monkeypatch):
    ignore = lambda *_: time.sleep(30)
    monkeypatch.setattr(paramiko.Channel, "_handle_request", ignore)
    monkeypatch.setattr(Dropbear, "check_channel_exec_request", ignore)
    Server().link().run(("true",), Deadline.after(2))
"""
# 100 MB a second and more, until the harness cuts it off.
FLOODING = """
import contextlib
from harness.core.deadline import Deadline
from ssh_server import Server


def flood(channel, _):
    with contextlib.suppress(OSError):
        while not channel.closed:
            channel.sendall(bytes(1 << 16))


def test_fault(guest):
    server = Server()
    server.behavior = flood
    server.link().run(("true",), Deadline.after(600))
"""
# Loaded into every process of the run: the clock's date differs by as many seconds as the file JUMP contains.
JUMPING = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
    char text[32] = "";
    int file = syscall(SYS_openat, AT_FDCWD, getenv("JUMP"), O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    long n = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    return n > 0 ? atol(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *kept) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (kept) *kept = exact.tv_sec;
    return exact.tv_sec;
}
"""
JUMPS = """
import pytest
import time
from pathlib import Path


@pytest.mark.parametrize("seconds", [400 * 86400, -400 * 86400, 0])
def test_jump(guest, seconds):
    before = time.time()
    Path(__file__).with_name("jump").write_text(str(seconds))
    assert abs(time.time() - before) > 300 * 86400
    assert guest.monitor.execute("query-status")
"""


# The run's own process fills the disk of temporary files before anything is built or booted.
FILLING = """

import os
assert tempfile.gettempdir() == os.environ["TMPDIR"]
with open(os.environ["TMPDIR"] + "/junk", "wb", buffering=0) as junk:
    try:
        while True:
            junk.write(bytes(4096))
    except OSError as full:
        assert full.errno == 28
"""
SMALL_TMPDIR = 'mount -t tmpfs -o size=1m none "$TMPDIR" || exit 77; exec "$@"'
NO_NAMESPACES = 77


class Run(BrokenRun):
    """A run of one case file with real QEMUs, in a directory with a store of its own."""

    def start(self, case: str, *, within: Sequence[str] = (), harm: str = "", **more: str) -> subprocess.Popen[str]:
        """Start it as a child of `within`, with `harm` in its conftest.py."""
        (self.directory / "conftest.py").write_text(CONFTEST + harm)
        (self.directory / "test_case.py").write_text(case)
        (self.directory / "pytest.ini").touch()
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(f"--vm={vm}" for vm in VMS)]
        env = {**environment(self.directory), **more}
        return subprocess.Popen(
            [*within, *words, str(self.directory)], cwd=self.directory, env=env, stdout=subprocess.PIPE, text=True
        )

    def verdicts(self, case: str) -> Mapping[str, str]:
        return {cell["vm"]: cell["verdict"] for cell in self.cells if cell["case"] == case}


def ended(broken: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = broken.communicate(timeout=900)
    return broken.returncode, output


FAULTS = {
    "monitor silent in a cell": (SILENT, "harness-error", 3, "monitor command query-status did not come in time"),
    "SSH server ignores requests": (LYING, "hang", 1, "in time"),
    "SSH server sends without end": (FLOODING, "harness-error", 3, "MiB"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_cell(tmp_path: Path, judge_fault: Judge, fault: str) -> None:
    case, verdict, status, reason = FAULTS[fault]
    run = Run(tmp_path)
    reported, output = ended(run.start(case + BYSTANDER))
    verdicts = run.verdicts("test_fault")
    assert set(verdicts) == set(VMS), output
    (found,) = set(verdicts.values())
    judge_fault(fault, expected=(verdict, status), reported=(found, reported), lost=run.lost(), orphaned=run.orphaned())
    reasons = [cell["reason"] for cell in run.cells if cell["case"] == "test_fault"]
    assert all(reason in each for each in reasons), reasons
    assert set(run.verdicts("test_bystander").values()) == {"pass"}, output
    assert "Traceback" not in output


def test_the_clock_jumps(tmp_path: Path, judge_fault: Judge) -> None:
    """The date of every process of the run jumps by 400 days forward, by 800 back, and returns."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    library = tmp_path / "jumping.so"
    (tmp_path / "jumping.c").write_text(JUMPING)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, tmp_path / "jumping.c"], check=True)
    run = Run(tmp_path)
    status, output = ended(run.start(JUMPS, LD_PRELOAD=str(library), JUMP=str(tmp_path / "jump")))
    judge_fault("clock jumps", expected=("", 0), reported=("", status), lost=run.lost(), orphaned=run.orphaned())
    assert [cell["verdict"] for cell in run.cells] == ["pass"] * 3 * len(VMS), output
    figures = [json.loads(line) for line in (tmp_path / "results/latest/figures.jsonl").read_text().splitlines()]
    walls = [figure["value"] for figure in figures if figure["figure"] == "run.wall_s"]
    assert all(0 <= wall < 900 for wall in walls)
    assert walls


def test_no_room_for_temporary_files(tmp_path: Path, judge_fault: Judge) -> None:
    """Nothing can be compiled: each cell reports which disk is full. With room, the next run passes."""
    run = Run(tmp_path)
    small = tmp_path / "temporary"
    small.mkdir()
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_TMPDIR, "sh"]
    variables = {"TMPDIR": str(small)}
    status, output = ended(run.start(BYSTANDER, within=within, harm=FILLING, **variables))
    if status == NO_NAMESPACES:
        pytest.skip("this host does not allow user namespaces")
    (verdict,) = set(run.verdicts("test_bystander").values())
    judge_fault(
        "no room in TMPDIR",
        expected=("harness-error", 3),
        reported=(verdict, status),
        lost=run.lost(),
        orphaned=run.orphaned(),
    )
    reason = f"{small}: the disk is full; make room, or set TMPDIR to another disk"
    assert [cell["reason"] for cell in run.cells] == [reason] * len(VMS), output
    assert "Traceback" not in output
    status, output = ended(run.start(BYSTANDER, within=within, **variables))
    assert status == 0, output


def test_two_whole_runs_share_a_store(tmp_path: Path, judge_fault: Judge) -> None:
    """Both build, freeze and thaw the same images in one cache at once: each is made once, and all cells pass."""
    run = Run(tmp_path)
    both = [run.start("def test_it(guest):\n    assert guest.pid\n" + BYSTANDER) for _ in range(2)]
    outcomes = [ended(each) for each in both]
    for status, _ in outcomes:
        judge_fault("two whole runs share cache and store", expected=("", 0), reported=("", status))
    assert (run.lost(), run.orphaned()) == (0, 0)
    assert [cell["verdict"] for cell in run.cells] == ["pass"] * 2 * 2 * len(VMS), outcomes
    store = [path.name.partition("-")[0] for path in (tmp_path / "cache/store").iterdir() if path.name[0] != "."]
    assert sorted(store) == sorted(["kernel", "frozen"] * len(VMS))
    # Each entry was built by one of them, the other waited or took it.
    assert sum(output.count("from the store") for _, output in outcomes) >= 2 * len(VMS)
