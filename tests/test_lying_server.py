"""With an SSH server that accepts the login and then misbehaves, every wait ends and every output is limited."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
import pytest
from ssh_server import SOON, Dropbear, Server

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.pexpect_over_ssh import Dialogue
from harness.guest.resident_shell_over_ssh import Shell
from harness.guest.ssh import SshConnection

Request = Callable[[SshConnection, Deadline], Any]
REQUESTS: dict[str, Request] = {
    "command": lambda link, deadline: link.run(("true",), deadline),
    "input": lambda link, deadline: link.run(("cat",), deadline, stdin=b"x" * (16 << 20)),
    "shell": lambda link, deadline: Shell("a-vm", link).run_program(("true",), deadline),
    "dialogue": lambda link, deadline: Dialogue("a-vm", link, ("cat",), deadline).read_line(deadline),
}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.die()


def late(link: SshConnection, request: Request, seconds: float = 1.0) -> None:
    """Assert that a request ends at its deadline and the connection survives it."""
    began = time.monotonic()
    with pytest.raises((DeadlineExceeded, GuestLost)):
        request(link, Deadline.after(seconds))
    assert time.monotonic() - began < seconds + 10
    assert link.alive


@pytest.mark.parametrize("name", REQUESTS)
def test_a_server_that_ignores_requests(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The server opens channels and answers heartbeats, but never answers a request for a program."""

    def ignore(*_: object) -> bool:
        time.sleep(SOON)
        return False

    monkeypatch.setattr(paramiko.Channel, "_handle_request", ignore)
    monkeypatch.setattr(Dropbear, "check_channel_exec_request", ignore)
    late(server.link(), REQUESTS[name])


@pytest.mark.parametrize("name", REQUESTS)
def test_a_server_whose_commands_say_nothing(server: Server, name: str) -> None:
    server.behaviour = lambda *_: None
    late(server.link(), REQUESTS[name])


@pytest.mark.parametrize("name", ["command", "shell"])
def test_a_server_that_drips(server: Server, name: str) -> None:
    """A byte now and then does not extend the deadline."""

    def drip(channel: paramiko.Channel, _: str) -> None:
        with contextlib.suppress(OSError):
            while not channel.closed:
                channel.sendall(b".")
                time.sleep(0.01)

    server.behaviour = drip
    late(server.link(), REQUESTS[name])


@pytest.mark.parametrize("name", ["command", "shell", "dialogue"])
@pytest.mark.parametrize("stream", ["sendall", "sendall_stderr"])
def test_a_server_that_floods(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, stream: str) -> None:
    monkeypatch.setattr("harness.guest.ssh.MOST_OUTPUT", 4 << 20)

    def flood(channel: paramiko.Channel, _: str) -> None:
        with contextlib.suppress(OSError):
            while not channel.closed:
                getattr(channel, stream)(b"x" * 65536)

    server.behaviour = flood
    link = server.link()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GuestError, match=r"printed (?:more than 4 MiB|a line of more than 1 MiB)"):
        REQUESTS[name](link, Deadline.after(SOON))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def test_a_program_that_prints_lines_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.guest.pexpect_over_ssh.MOST_OUTPUT", 1 << 20)

    def flood(channel: paramiko.Channel, _: str) -> None:
        with contextlib.suppress(OSError):
            while not channel.closed:
                channel.sendall(b"a line\n" * 4096)

    server.behaviour = flood
    deadline = Deadline.after(SOON)
    dialogue = Dialogue("a-vm", server.link(), ("yes",), deadline)

    def read_all() -> None:
        while dialogue.read_line(deadline) is not None:
            pass

    with pytest.raises(GuestError, match="printed more than 1 MiB"):
        read_all()


def test_an_honest_server_is_not_cut_later(server: Server) -> None:
    link = server.link()
    assert link.run(("echo", "x"), Deadline.after(SOON)).stdout == "ran echo x\n"
    channel = link.open_channel(Deadline.after(SOON))
    server.behaviour = lambda *_: None
    with link.close_channel_at_deadline(channel, Deadline.after(0.5)):
        channel.exec_command("sh")
    time.sleep(1)
    assert not channel.closed
