"""Writes a guest's physical memory from the host, through QEMU's gdb stub; the guest is stopped meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.run_gdb_on_guest import open_gdb_stub

# The stub runs in QEMU's main loop, which answers at once unless the host is busy.
_SECONDS = 30.0
_MOST = 1 << 12
_ACKNOWLEDGED = b"+"
# How the stub reports that the guest stopped, which it does once it has, after the first command or before.
_STOPPED = ("T", "S")


@contextmanager
def bytes_replaced(guest: Guest, address: int, content: bytes) -> Iterator[None]:
    """Replace the bytes at a kernel virtual address while the block runs. Raises GuestError if they do not change.

    QEMU discards the code that it has translated from there (cpu_physical_memory_write()).
    """
    physical = guest.memory.physical_address(address)
    own = guest.memory.read_physical(physical, len(content))
    _write(guest, physical, content)
    try:
        yield
    finally:
        _write(guest, physical, own)


def _write(guest: Guest, physical: int, content: bytes) -> None:
    """Write the bytes and read them back."""
    with open_gdb_stub(guest) as address, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        try:
            # QEMU stops the guest when a debugger connects, and lets it run when it detaches (gdbstub.c, 7.2).
            connection.connect(address)
            write_physical_memory(connection, physical, content)
        except OSError as error:
            raise GuestError(f"QEMU's gdb stub does not answer: {error}", where=guest.name) from None
        finally:
            # After an error the guest is still stopped. A guest that runs is not affected.
            guest.monitor.execute("cont")
    if guest.memory.read_physical(physical, len(content)) != content:
        raise GuestError(f"QEMU's gdb stub did not write to {physical:#x}", where=guest.name)


def write_physical_memory(connection: socket.socket, physical: int, content: bytes) -> None:
    """Write bytes by gdb's remote protocol, in QEMU's mode for physical addresses. Raises GuestError and OSError."""
    answers = _answers(connection)
    for command in (
        "Qqemu.PhyMemMode:1",
        f"M{physical:x},{len(content):x}:{content.hex()}",
        "Qqemu.PhyMemMode:0",
        "D",
    ):
        connection.sendall(f"${command}#{sum(command.encode()) % 256:02x}".encode())
        answer = next(answers)
        if answer != "OK":
            raise GuestError(f"QEMU's gdb stub answered {answer!r} to {command!r}")


def _answers(connection: socket.socket) -> Iterator[str]:
    """Yield the texts of packets, `$TEXT#CHECKSUM`, and acknowledge each; a report that the guest stopped is no answer.

    Raises ConnectionError when the stub sends nothing more or too much.
    """
    received = b""
    while True:
        begin, end = received.find(b"$"), received.find(b"#")
        if begin < 0 or not begin < end < len(received) - 2:
            part = connection.recv(_MOST)
            received += part
            if not part or len(received) > _MOST:
                raise ConnectionError("no answer")
            continue
        text = received[begin + 1 : end].decode("ascii", errors="replace")
        received = received[end + 3 :]
        connection.sendall(_ACKNOWLEDGED)
        if not text.startswith(_STOPPED):
            yield text
