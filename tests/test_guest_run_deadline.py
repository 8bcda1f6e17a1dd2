"""A wait ends as a hang when the guest has run for its limit, and as the host's failure if the host does not run it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import paramiko
import pytest
from ssh_server import SOON, Server

from harness.core.errors import DeadlineExceeded, GuestNotRun, PinpointError
from harness.guest import guest_run_deadline, steal_time
from harness.guest.console import Console
from harness.guest.guest import Guest
from harness.guest.guest_run_deadline import GuestRunClock, GuestRunDeadline
from harness.guest.steal_time import GuestTime
from harness.matrix.cells.cell_phases_and_verdict import verdict_of_error
from harness.verdict.cell_verdict_enum import Verdict

LIMIT = 0.5
WALL = 2.0
Wait = Callable[[Guest, GuestRunDeadline], object]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that never answers a command."""
    made = Server()
    made.behavior = lambda *_: None
    yield made
    made.die()


@pytest.fixture
def guest(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    """A guest of that server whose console is silent. Its QEMU is this process."""
    monkeypatch.setattr(guest_run_deadline, "_LONGEST_FACTOR", WALL / LIMIT)
    monkeypatch.setattr(guest_run_deadline, "_SHORTEST_SECONDS", 0.0)
    ours, its = socket.socketpair()
    monitor = SimpleNamespace(call_when_guest_stops=lambda _: None, is_guest_paused=False)
    emulator = SimpleNamespace(monitor=monitor, pid=os.getpid(), console=Console("a-vm", ours))
    made = Guest(cast(Any, SimpleNamespace(recipe=SimpleNamespace(name="a-vm"))), cast(Any, emulator), cast(Any, None))
    made._link = server.link()
    yield made
    its.close()
    made.console.close()


def fence_without_mark(guest: Guest, deadline: GuestRunDeadline) -> None:
    guest.__dict__["run_script"] = lambda *_, **__: None
    guest.run_fenced_script("true", deadline)


WAITS: dict[str, Wait] = {
    "command": lambda guest, deadline: guest.run("true", deadline=deadline),
    "command in its own channel": lambda guest, deadline: guest.ssh_connection.run(("true",), deadline),
    "file": lambda guest, deadline: guest.put(bytes(16 << 20), "/tmp/file", deadline=deadline),
    "fence": fence_without_mark,
    "dialogue": lambda guest, deadline: guest.start_dialogue("cat", deadline=deadline).read_line(deadline),
    "input": lambda guest, deadline: guest.start_dialogue("cat", deadline=deadline).send_line(
        "x" * (16 << 20), deadline
    ),
    "exit status": lambda guest, deadline: guest.start_dialogue("cat", deadline=deadline).await_exit_status(deadline),
}


def ended(guest: Guest, wait: Wait) -> tuple[PinpointError, float]:
    """Return the error of a wait, and how long it took."""
    began = time.monotonic()
    with pytest.raises(PinpointError) as caught:
        wait(guest, guest.scaled_deadline(LIMIT))
    return caught.value, time.monotonic() - began


@pytest.mark.parametrize("name", WAITS)
def test_a_guest_that_has_its_time_hangs(guest: Guest, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(GuestTime, "seconds_since_last_call", lambda _: LIMIT / 4)
    error, _ = ended(guest, WAITS[name])
    assert isinstance(error, DeadlineExceeded)
    assert verdict_of_error(error) is Verdict.HANG


@pytest.mark.slow
@pytest.mark.parametrize("name", WAITS)
def test_a_guest_that_the_host_does_not_run_does_not_hang(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(GuestTime, "seconds_since_last_call", lambda _: 0.0)
    error, seconds = ended(guest, WAITS[name])
    assert isinstance(error, GuestNotRun)
    assert "a-vm: the host ran the guest for 0 s of 2 s; run fewer programs" in str(error)
    assert verdict_of_error(error) is Verdict.HARNESS_ERROR
    assert seconds >= WALL


def test_a_guest_that_is_run_late_answers(guest: Guest, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes after the limit by the wall clock, and before the limit of guest run time."""
    monkeypatch.setattr(GuestTime, "seconds_since_last_call", lambda _: 0.0)

    def late(channel: paramiko.Channel, _: str) -> None:
        time.sleep(2 * LIMIT)
        channel.sendall(b"late\n")
        channel.send_exit_status(0)
        channel.close()

    server.behavior = late
    assert guest.ssh_connection.run(("true",), guest.scaled_deadline(LIMIT)).stdout == "late\n"


def test_a_process_that_stood_still_blames_no_guest(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an hour in which this process did not look, as after SIGSTOP, only moments count."""
    monkeypatch.setattr(GuestTime, "seconds_since_last_call", lambda _: 3600.0)
    assert not guest.scaled_deadline(SOON).expired
    time.sleep(2 * guest_run_deadline._SHORTEST_LOOK)
    assert not guest.scaled_deadline(SOON).expired


def test_an_earlier_deadline_is_on_the_same_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuestTime, "seconds_since_last_call", lambda _: 0.0)
    deadline = GuestRunClock("a-vm", os.getpid(), lambda: False).deadline_after(50.0)
    assert deadline.earlier_of(100.0).remaining() == 50.0
    assert deadline.earlier_of(5.0).remaining() == 5.0


def spinning_threads(count: int) -> subprocess.Popen[bytes]:
    """Start a process with threads that are always on a CPU, if the host lets them."""
    program = "import hashlib, threading\n" + (
        "def spin():\n    while True: hashlib.pbkdf2_hmac('sha256', b'', b'', 200000)\n"
        f"for _ in range({count}): threading.Thread(target=spin).start()\n"
    )
    return subprocess.Popen([sys.executable, "-c", program])


def test_two_processors_that_spin_on_one_do_run() -> None:
    """Each of two threads on one CPU waits for half of the time; the guest that they are hangs nevertheless."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the host's kernel has no schedstat")
    process = spinning_threads(2)
    try:
        tasks = Path(f"/proc/{process.pid}/task")
        while len(list(tasks.iterdir())) < 3:
            time.sleep(0.05)
        for thread in tasks.iterdir():
            os.sched_setaffinity(int(thread.name), {min(os.sched_getaffinity(0))})
        clock = GuestTime(process.pid, lambda: False)
        before, _ = clock.run_and_wait_seconds()
        time.sleep(2.0)
        after, _ = clock.run_and_wait_seconds()
        assert after > before
        # Both ran about equally long.
        assert clock.seconds_since_last_call() >= 0.4 * (after - before)
    finally:
        process.kill()
        process.wait()


def test_a_thread_that_is_never_scheduled_does_not_run() -> None:
    """The host's kernel counts a wait for a CPU when it ends; this one ends long after the looks at it."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the host's kernel has no schedstat")
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(5)]
    try:
        for process in spinning:
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        starved = spinning[0].pid
        os.sched_setscheduler(starved, os.SCHED_IDLE, os.sched_param(0))
        time.sleep(1.0)
        clock = GuestTime(starved, lambda: False)
        began, ran = time.monotonic(), 0.0
        while time.monotonic() - began < 4.0:
            time.sleep(0.25)
            ran += clock.seconds_since_last_call()
        assert ran < 1.0
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_an_unfinished_wait_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits in two looks of 1 s each; then the kernel adds 2.5 s, and the thread runs."""
    values = iter([(1.0, 0.0)] * 3 + [(1.1, 2.5), (2.1, 2.5)])
    seconds = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(GuestTime, "run_and_wait_seconds_by_thread", lambda _: {"1": next(values)})
    monkeypatch.setattr(GuestTime, "_is_runnable", lambda *_: True)
    monkeypatch.setattr(steal_time, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    clock = GuestTime(0, lambda: False, _began=next(seconds))
    assert [clock.seconds_since_last_call() for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
