"""Bytes are written by gdb's remote protocol, as QEMU's stub takes it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest

from harness.core.errors import GuestError
from harness.guest.write_guest_memory import write_physical_memory


def _stub(connection: socket.socket, answers: Sequence[bytes], commands: list[bytes]) -> None:
    """Answer as QEMU does: an acknowledgment, then packets, here in pieces; each must be acknowledged."""
    for answer in answers:
        packet = b""
        while b"#" not in packet[:-2]:
            packet += connection.recv(1)
        commands.append(packet)
        for piece in (b"+", answer[:1], answer[1:]):
            connection.sendall(piece)
        for _ in range(answer.count(b"$")):
            assert connection.recv(1) == b"+"
    connection.close()


def _written(*answers: bytes) -> list[bytes]:
    ours, theirs = socket.socketpair()
    commands: list[bytes] = []
    stub = threading.Thread(target=_stub, args=(theirs, answers, commands))
    stub.start()
    try:
        with ours:
            write_physical_memory(ours, 0x1234, b"\x08\x00\x02\x40")
    finally:
        stub.join()
    return commands


def test_the_bytes_are_written_at_a_physical_address() -> None:
    commands = _written(*[b"$OK#9a"] * 4)
    texts = [command.partition(b"$")[2].partition(b"#")[0] for command in commands]
    assert texts == [b"Qqemu.PhyMemMode:1", b"M1234,4:08000240", b"Qqemu.PhyMemMode:0", b"D"]
    assert all(int(command[-2:], 16) == sum(command[1:-3]) % 256 for command in commands)


def test_a_report_of_the_stop_is_no_answer() -> None:
    commands = _written(b"$T02thread:01;#c7$OK#9a", *[b"$OK#9a"] * 3)
    assert [command[1:2] for command in commands] == [b"Q", b"M", b"Q", b"D"]


def test_a_refusal_is_an_error() -> None:
    with pytest.raises(GuestError, match=r"answered 'E14' to 'M1234,4:08000240'"):
        _written(b"$OK#9a", b"$E14#aa")


def test_a_stub_that_ends_is_an_error() -> None:
    with pytest.raises(OSError, match=r"no answer|Broken pipe|reset"):
        _written(b"$OK#9a")
