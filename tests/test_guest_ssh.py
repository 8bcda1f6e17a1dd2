"""The SSH connection works with an SSH server of these tests in this process."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import paramiko
import pytest
from ssh_server import SOON, Behavior, Server, end, succeed

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.keys import RunKeys
from harness.guest.result import Result
from harness.guest.ssh import SshConnection


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.die()


def test_result_of_a_command(server: Server) -> None:
    def fail(channel: paramiko.Channel, _command: str) -> None:
        channel.sendall(b"some\xff output\n")
        channel.sendall_stderr(b"some complaint\n")
        end(channel, 7)

    server.behavior = fail
    result = server.link().run(("insmod", "a b"), Deadline.after(SOON))
    assert (result.rc, result.stdout, result.stderr, result.ok) == (7, "some\ufffd output\n", "some complaint\n", False)
    with pytest.raises(GuestError, match=r"a-vm: `insmod 'a b'` ended with 7: some complaint"):
        result.check()


def test_words_reach_the_guest_as_they_are(server: Server) -> None:
    output = server.link().run(("echo", "$HOME; it's"), Deadline.after(SOON)).stdout
    assert output == "ran echo '$HOME; it'\"'\"'s'\n"


def test_both_outputs_may_be_larger_than_the_window(server: Server) -> None:
    def pour(channel: paramiko.Channel, _command: str) -> None:
        channel.sendall_stderr(b"e" * 3_000_000)
        channel.sendall(b"o" * 3_000_000)
        end(channel, 0)

    server.behavior = pour
    result = server.link().run(("pour",), Deadline.after(SOON))
    assert (len(result.out), len(result.err)) == (3_000_000, 3_000_000)


def test_slow_command_ends_at_its_deadline_and_costs_nothing_else(server: Server) -> None:
    def sleep(channel: paramiko.Channel, command: str) -> None:
        if command == "sleep":
            return
        succeed(channel, command)

    server.behavior = sleep
    link = server.link()
    with pytest.raises(DeadlineExceeded, match="sleep"):
        link.run(("sleep",), Deadline.after(0.3))
    assert link.run(("true",), Deadline.after(SOON)).ok


@pytest.mark.parametrize("break_it", [Server.die, None], ids=["guest gone", "guest stopped"])
def test_lost_guest_is_reported_at_once(server: Server, break_it: Callable[[Server], None] | None) -> None:
    server.behavior = lambda _channel, _command: None
    link = server.link()
    breaking = (
        (lambda: break_it(server)) if break_it else (lambda: link.break_connection("the guest stopped: SHUTDOWN"))
    )
    threading.Timer(0.2, breaking).start()
    began = time.monotonic()
    with pytest.raises(GuestLost, match="connection broke" if break_it else "the guest stopped: SHUTDOWN"):
        link.run(("sleep",), Deadline.after(120))
    assert time.monotonic() - began < 60
    with pytest.raises(GuestLost):
        link.run(("true",), Deadline.after(SOON))


def test_another_host_key_is_refused(server: Server) -> None:
    stranger = RunKeys.make()
    with pytest.raises(GuestError, match="not the one we set up"):
        server.link(RunKeys(server.keys.client_key, stranger.guest_host_key, b"", ""))


def test_no_key_but_ours_is_tried(server: Server) -> None:
    stranger = RunKeys.make()
    with pytest.raises(GuestError, match="not the one we set up"):
        server.link(RunKeys(stranger.client_key, server.keys.guest_host_key, b"", ""))


def test_nobody_there_is_a_lost_guest() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(GuestLost, match="no SSH server answers"):
        SshConnection("a-vm", port, RunKeys.make()).connect(Deadline.after(SOON))


def store(damage: bytes) -> Behavior:
    """Return the behavior of a guest that appends `damage` to what it receives and answers with the hash of that."""

    def behave(channel: paramiko.Channel, _command: str) -> None:
        content = b""
        while chunk := channel.recv(1 << 16):
            content += chunk
        channel.sendall(f"{hashlib.sha256(content + damage).hexdigest()}  -\n".encode())
        end(channel, 0)

    return behave


def test_file_that_arrived_whole(server: Server) -> None:
    server.behavior = store(damage=b"")
    server.link().put(bytes(3_000_000), "/tmp/a b.ko", 0o600, Deadline.after(SOON))


def test_damaged_file_is_noticed(server: Server) -> None:
    server.behavior = store(damage=b"x")
    with pytest.raises(GuestError, match=r"/tmp/a.ko arrived damaged"):
        server.link().put(b"content", "/tmp/a.ko", 0o644, Deadline.after(SOON))


def test_result_reads_well() -> None:
    text = "\n".join(f"line {number}" for number in range(30))
    result = Result("a-vm", ("sh", "-c", "cat /x | sort"), 1, text.encode(), b"", 0.25)
    lines = repr(result).splitlines()
    assert lines[:3] == ["a-vm$ cat /x | sort", "  exit status 1 after 0.250 s", "  stdout: line 0"]
    assert lines[-1] == "  stdout: ... 10 more lines"
