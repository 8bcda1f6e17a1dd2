"""The guest has the properties that every other case relies on: mounts, readable kernel files, isolation."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.core import child_privilege_drop
from harness.guest.guest import Guest
from harness.guest.process_listening_sockets import network_listeners
from harness.landing.target import Target
from harness.matrix.guests import check_after_cell

# Wait until the exec is complete: in the middle of it a process has an empty cmdline.
LEFT = "sleep 987 </dev/null >/dev/null 2>&1 & echo $! >/tmp/left.pid; until grep -q sleep /proc/$!/cmdline; do :; done"
# Leftovers of a cell: the command that makes one, the command that removes it, and its name in the check-up.
DIRT = (
    ("insmod {module}", "rmmod pinpoint_second", "module pinpoint_second"),
    ("mkdir /tmp/left && mount -t tmpfs none /tmp/left", "umount /tmp/left", "mount none on /tmp/left"),
    (LEFT, "kill $(cat /tmp/left.pid)", "process sleep"),
)
# The taint that user space may set (TAINT_USER, include/linux/panic.h, 6.1).
TAINT_USER, ITS_LETTER = 64, "U"
# Seconds that a guest on a busy host takes to set its clock; the clock stays late by that time.
SLOW = 10
# Addresses of QEMU's user network: the guest, and the host's loopback as the guest would see it.
GUEST, HOST = "10.0.2.15", "10.0.2.2"
HOST_KEY = "/etc/dropbear/dropbear_ed25519_host_key"
# In /proc/PID/status of a process with a system call filter (Documentation/filesystems/proc.rst, 6.1).
_FILTERED = "2"
# Four processes that compute for a few tenths of a second, between two readings of the time of each CPU.
BUSY = """
grep '^cpu[0-9]' /proc/stat
for each in 1 2 3 4; do (i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done) & done
wait
echo --
grep '^cpu[0-9]' /proc/stat
"""


def test_kernel_shows_what_landings_are_read_from(guest: Guest) -> None:
    """debugfs is mounted, the kprobes list and addresses are readable, kprobes are armed, the right kernel runs."""
    host = guest.testinfra_host
    assert host.mount_point("/sys/kernel/debug").exists
    assert host.file("/sys/kernel/debug/kprobes/list").exists
    assert host.file("/sys/kernel/debug/kprobes/enabled").content_string.strip() == "1"
    assert host.sysctl("kernel.kptr_restrict") == 0
    assert host.process.filter(comm="dropbear")
    assert host.file("/proc/sys/kernel/osrelease").content_string.strip() == guest.image.release


def test_module_is_seen_while_it_is_loaded(guest: Guest) -> None:
    """A target module has its directory in sysfs from insmod until rmmod."""
    directory = guest.testinfra_host.file("/sys/module/pinpoint_second")
    assert not directory.exists
    with Target(guest, "pinpoint_second"):
        assert directory.is_directory
        assert guest.testinfra_host.file("/sys/module/pinpoint_second/refcnt").content_string.strip() == "0"
    assert not directory.exists


def test_reaches_no_network(guest: Guest) -> None:
    """The guest cannot reach a server on the host's loopback, but can reach its own server."""
    greeting = guest.run_script(f"nc -w 5 {GUEST} 22 </dev/null").stdout
    assert greeting.startswith("SSH-2.0-dropbear"), "nc in this guest reaches nothing at all"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        attempt = guest.run_script(f"nc -w 3 {HOST} {port} </dev/null")
        assert not attempt.ok, str(attempt)
        with pytest.raises(TimeoutError):
            server.accept()


def test_only_loopback_reaches_its_qemu(guest: Guest) -> None:
    """QEMU listens on one port only, the guest's SSH server on loopback; its sandbox is in force; it is never root."""
    found = network_listeners(guest.pid)
    assert [(each.kind, each.address.is_loopback) for each in found] == [("tcp", True)], found
    threads = Path(f"/proc/{guest.pid}/task").glob("*/status")
    shown = [thread.read_text() for thread in threads]
    assert {_field(thread, "Seccomp") for thread in shown} == {_FILTERED}
    assert child_privilege_drop.reason_rights_kept() or {_field(thread, "Uid") for thread in shown} == {
        str(os.geteuid() or child_privilege_drop.QEMU_USER)
    }


def test_keys_are_roots_alone(guest: Guest) -> None:
    """Only root can read the run's keys in the guest; no file of the host and no console log holds them."""
    listing = guest.run("ls", "-l", "/root/.ssh/authorized_keys", HOST_KEY).check().stdout
    assert [line.split()[0] for line in listing.splitlines()] == ["-rw-------"] * 2
    held = guest.run("base64", HOST_KEY).check().stdout
    assert not any(line in guest.console.text() for line in held.split())
    assert guest.image.initrd.is_file()
    assert guest.run_script(f"cat {HOST_KEY}").out not in guest.image.initrd.read_bytes()


def _field(status: str, name: str) -> str:
    """Return one field of /proc/PID/status."""
    words = status.split()
    return words[words.index(f"{name}:") + 1]


def test_a_fresh_guest_is_another_one(guest: Guest, fresh: Callable[..., AbstractContextManager[Guest]]) -> None:
    """A case can start another guest of its VM: the same kernel in another machine with its own files."""
    guest.put(b"of the row", "/tmp/whose")
    with fresh() as other:
        assert other.pid != guest.pid
        assert other.read_text("/proc/sys/kernel/random/boot_id") != guest.read_text("/proc/sys/kernel/random/boot_id")
        assert not other.testinfra_host.file("/tmp/whose").exists


@pytest.mark.deep
def test_what_a_cell_leaves_is_noticed(
    fresh: Callable[..., AbstractContextManager[Guest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module, mount or process that a cell leaves is named; after a new taint no other cell uses the guest."""
    monkeypatch.setattr(check_after_cell, "GONE_SECONDS", 0.5)
    monkeypatch.setattr(check_after_cell, "FEWEST_LOOKS", 5)
    with fresh(may_die=True) as guest:
        module = guest.copy_module("pinpoint_second")
        for left, undone, reported in DIRT:
            guest.run_script(left.format(module=module)).check()
            with pytest.raises(check_after_cell.GuestStateChanged, match=reported):
                check_after_cell.check_after_cell(guest)
            guest.run_script(undone).check()
            assert check_after_cell.check_after_cell(guest) == ""
        guest.run_script(f"echo {TAINT_USER} >/proc/sys/kernel/tainted").check()
        assert check_after_cell.check_after_cell(guest) == f"taint {ITS_LETTER}"


@pytest.mark.deep
def test_each_cpu_of_a_thawed_guest_has_timer_interrupts(
    guest: Guest, fresh: Callable[..., AbstractContextManager[Guest]]
) -> None:
    """While more processes run than there are CPUs, the kernel counts the time that each CPU spends on them."""
    cpus = 1 if guest.image.uses_one_cpu else max(2, guest.image.recipe.machine.cpus)
    with fresh(cpus=cpus) as thawed:
        before, after = (_ticks_by_cpu(part) for part in thawed.run_script(BUSY).check().stdout.split("--\n"))
        assert len(before) == len(after) == cpus
        assert [number for number, ticks in enumerate(after) if ticks == before[number]] == []


@pytest.mark.deep
def test_two_guests_thawed_at_once(fresh: Callable[..., AbstractContextManager[Guest]]) -> None:
    """Two guests thawed from one file have clocks that are right and run, and produce different random numbers."""
    with fresh() as one, fresh() as other:
        for each in (one, other):
            began = time.time()
            seconds, before, after = each.run_script(
                "date +%s; read now _ </proc/uptime; echo $now; sleep 1; read now _ </proc/uptime; echo $now"
            ).stdout.split()
            assert began - SLOW < int(seconds) < time.time() + SLOW
            assert float(after) - float(before) >= 0.9
        numbers = [each.run("head", "-c", "32", "/dev/urandom").out for each in (one, other)]
        assert numbers[0] != numbers[1]
        assert len(numbers[0]) == len(numbers[1]) == 32


def _ticks_by_cpu(lines: str) -> list[int]:
    """Return the time that each CPU has spent on processes, from lines of /proc/stat: user, nice and system."""
    return [sum(map(int, line.split()[1:4])) for line in lines.splitlines()]
