"""What every other case takes for granted of its guest: what is mounted, what is shown, who is reached."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from harness.guest.guest import Guest
from harness.landing.target import Target

# As QEMU's user network has it: the guest, and the host's loopback as the guest would see it.
GUEST, HOST = "10.0.2.15", "10.0.2.2"


def test_kernel_shows_what_landings_are_read_from(guest: Guest) -> None:
    """debugfs is mounted, the kprobes list and addresses are readable, kprobes are armed, the right kernel runs."""
    host = guest.host
    assert host.mount_point("/sys/kernel/debug").exists
    assert host.file("/sys/kernel/debug/kprobes/list").exists
    assert host.file("/sys/kernel/debug/kprobes/enabled").content_string.strip() == "1"
    assert host.sysctl("kernel.kptr_restrict") == 0
    assert host.process.filter(comm="dropbear")
    assert host.file("/proc/sys/kernel/osrelease").content_string.strip() == guest.image.release


def test_module_is_seen_while_it_is_loaded(guest: Guest) -> None:
    """A target module has its directory in sysfs from insmod to rmmod, and no longer."""
    directory = guest.host.file("/sys/module/pinpoint_second")
    assert not directory.exists
    with Target(guest, "pinpoint_second"):
        assert directory.is_directory
        assert guest.host.file("/sys/module/pinpoint_second/refcnt").content_string.strip() == "0"
    assert not directory.exists


def test_reaches_no_network(guest: Guest) -> None:
    """A server on the host's loopback is out of the guest's reach, though its own one is not."""
    greeting = guest.script(f"nc -w 5 {GUEST} 22 </dev/null").stdout
    assert greeting.startswith("SSH-2.0-dropbear"), "nc in this guest reaches nothing at all"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        attempt = guest.script(f"nc -w 3 {HOST} {port} </dev/null")
        assert not attempt.ok, str(attempt)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_fresh_guest_is_another_one(guest: Guest, fresh: Callable[..., AbstractContextManager[Guest]]) -> None:
    """A case may have a guest of its own: the same kernel in another machine, whose files are its own."""
    guest.put(b"of the row", "/tmp/whose")
    with fresh() as other:
        assert other.pid != guest.pid
        assert other.read_text("/proc/sys/kernel/random/boot_id") != guest.read_text("/proc/sys/kernel/random/boot_id")
        assert not other.host.file("/tmp/whose").exists
