"""Cases that break their guest or its connection. `test_guest_faults.py` runs each of them in a run of its own.

They make no claims about kprobes. pytest does not collect this file by itself, and it is not part of the matrix.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.core import process
from harness.core.deadline import Deadline
from harness.guest import start
from harness.guest.guest import Guest
from harness.guest.monitor import Monitor
from harness.guest.qemu_process import QemuProcess
from harness.plugin import RUN

# How long a trigger that does not end is waited for; the guests that commit one are idle.
_SOON = 20.0
_FLOOD_MIB = 100
# More than twice what the harness keeps in memory.
_PUSHED_MIB = 20
_FORGED = "Kernel panic - not syncing: forged by a program"
# Finds the SSH server's process that serves this shell: the nearest ancestor with that name.
_SERVER = """server=$$
until grep -q dropbear /proc/$server/comm; do server=$(sed 's/.*) . //; s/ .*//' /proc/$server/stat); done"""

# A number of virtual CPUs that no recipe has.
_ODD_CPUS = 3

Commit = Callable[..., None]
Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.fixture
def commit(guest: Guest) -> Commit:
    """Return `commit(trigger)`, which runs a trigger of probes/crash/*.c in this guest's kernel and waits for it."""
    guest.run("insmod", guest.copy_module("pinpoint_crash")).check()

    def order(trigger: str) -> None:
        guest.run_script(f"echo {trigger} >/sys/kernel/debug/pinpoint_crash", guest.scaled_deadline(_SOON))

    return order


@pytest.mark.parametrize("trigger", ["panic", "null_read", "bug", "warn", "spin", "deaf", "reset", "exhaust", "drop"])
def test_kernel(commit: Commit, trigger: str) -> None:
    """The kernel panics, oopses, hangs with and without interrupts, resets, runs out of memory, loses messages."""
    commit(trigger)


def test_module_never_returns(guest: Guest) -> None:
    """A module's initializer sleeps endlessly, and no signal ends it."""
    guest.run("insmod", guest.copy_module("pinpoint_crash"), "commit=sleep", deadline=guest.scaled_deadline(_SOON))


def test_reboot(guest: Guest) -> None:
    """A program reboots the guest."""
    guest.run("reboot", "-f", deadline=guest.scaled_deadline(_SOON))


def test_out_of_memory(guest: Guest) -> None:
    """A program takes all memory."""
    guest.run_script("tail /dev/zero", guest.scaled_deadline(120))


def test_full_disk(guest: Guest) -> None:
    """A file that the host sends does not fit on the guest's disk."""
    guest.run_script("mkdir /tmp/full && mount -t tmpfs -o size=64k none /tmp/full").check()
    guest.put(bytes(1 << 20), "/tmp/full/file")


def test_emulator_killed(guest: Guest) -> None:
    """QEMU is killed while a command runs."""
    threading.Timer(1.0, os.kill, (guest.pid, signal.SIGKILL)).start()
    guest.run("sleep", "60")


def test_emulator_stopped(guest: Guest) -> None:
    """QEMU is stopped while a command runs (SIGSTOP): neither the guest nor the monitor answers."""
    threading.Timer(1.0, os.kill, (guest.pid, signal.SIGSTOP)).start()
    guest.run("sleep", "60")


def test_host_does_not_run_it(guest: Guest) -> None:
    """Every thread of QEMU runs only when its CPU is idle, and other programs keep that CPU busy.

    QEMU and each of the programs have a session of their own. Among sessions the kernel compares the nice values of
    their groups, not the policies of their threads (sched(7), autogroup).
    """
    cpu = {min(os.sched_getaffinity(0))}
    words = [sys.executable, "-c", "while True: pass"]
    others = [process.spawn(words) for _ in range(3)]
    try:
        for other in others:
            os.sched_setaffinity(other.pid, cpu)
        for thread in Path(f"/proc/{guest.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cpu)
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
        with contextlib.suppress(OSError):
            Path(f"/proc/{guest.pid}/autogroup").write_text("19")
        guest.run_script("while :; do :; done", guest.scaled_deadline(_SOON))
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_killed_while_it_freezes(
    guest: Guest, fresh: Fresh, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU is killed while it writes another guest of this VM to the store."""
    # A guest that no other run uses.
    request.config.stash[RUN].fleet.drop_frozen(guest.image.with_cpus(_ODD_CPUS))
    freeze = start.freeze_running_guest

    def freeze_and_kill(frozen: Guest, path: Path, seconds: float) -> None:
        deadline = Deadline.after(seconds)

        def kill() -> None:
            while not (path.exists() and path.stat().st_size):
                deadline.require_time_left("the first of it")
                time.sleep(0.001)
            os.kill(frozen.pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        freeze(frozen, path, seconds)

    monkeypatch.setattr(start, "freeze_running_guest", freeze_and_kill)
    with fresh(cpus=_ODD_CPUS):
        pass


def test_killed_while_it_thaws(fresh: Fresh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """QEMU is killed when it has read half of a frozen guest."""
    take, pipe = QemuProcess._take, tmp_path / "pipe"
    os.mkfifo(pipe)

    def take_half(emulator: QemuProcess, monitor: Monitor, frozen: Path, deadline: Deadline) -> None:
        def feed() -> None:
            with frozen.open("rb") as whole, pipe.open("wb", buffering=0) as half:
                half.write(whole.read(frozen.stat().st_size // 2))
                os.kill(emulator.pid, signal.SIGKILL)

        threading.Thread(target=feed).start()
        take(emulator, monitor, pipe, deadline)

    monkeypatch.setattr(QemuProcess, "_take", take_half)
    with fresh():
        pass


def test_ssh_cut(guest: Guest) -> None:
    """The SSH server's process for our connection is killed."""
    guest.run_script(f"{_SERVER}\nkill -9 $server; sleep 60")


def test_ssh_stalled(guest: Guest) -> None:
    """The SSH server's process for our connection is stopped and does not continue."""
    guest.run_script(f"{_SERVER}\nkill -STOP $server; sleep 60", guest.scaled_deadline(_SOON))


def test_half_a_file(guest: Guest) -> None:
    """The SSH server's process is killed while a file is being sent."""
    guest.run_script(f"{_SERVER}\n(sleep 1; kill -9 $server) >/dev/null 2>&1 &").check()
    guest.put(bytes(64 << 20), "/tmp/half", deadline=guest.scaled_deadline(60))


def test_console_flood(guest: Guest) -> None:
    """A program writes more to the console than the harness keeps in memory."""
    line = "a line as a program prints it that has lost its mind, over and over again"
    guest.run_script(f"yes '{line}' | head -c {_FLOOD_MIB << 20} >/dev/console", guest.scaled_deadline(1800)).check()


def test_oops_pushed_out(commit: Commit, guest: Guest) -> None:
    """A warning of the kernel is followed by more output than the harness keeps in memory."""
    commit("warn")
    guest.run_script(f"yes {'x' * 70} | head -c {_PUSHED_MIB << 20} >/dev/console", guest.scaled_deadline(900)).check()


def test_taint_without_a_complaint(commit: Commit, guest: Guest) -> None:
    """The kernel warns while its console prints only emergencies: nothing is on the console but the taint is new."""
    guest.run_script("dmesg -n 1").check()
    commit("warn")
    guest.run_script("dmesg -c >/dev/null").check()


def test_console_garbage(guest: Guest) -> None:
    """A program writes binary garbage to the console."""
    guest.run_script("head -c 262144 /dev/urandom >/dev/console", guest.scaled_deadline(120)).check()


def test_forged_on_console(guest: Guest) -> None:
    """A program writes a panic with a printk time to the console."""
    guest.run_script(f"printf '[   %d.000001] {_FORGED}\\r\\n' $(cut -d. -f1 /proc/uptime) >/dev/console").check()


def test_forged_in_kmsg(guest: Guest) -> None:
    """A program writes a panic to the kernel's log, claiming the kernel's own facility."""
    guest.run_script(f"echo '<0>{_FORGED}' >/dev/kmsg").check()


def test_clock_jumps(guest: Guest) -> None:
    """The guest's clock is set years ahead, then years back."""
    guest.run_script("date -s 2037-01-01; sleep 0; date -s 1999-01-01").check()


def test_bystander(guest: Guest) -> None:
    """The cell after the trigger, on the same guest or on a fresh one."""
    assert guest.run("cat", "/proc/loadavg").ok
