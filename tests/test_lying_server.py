"""With an SSH server that accepts the login and then misbehaves, every wait ends and every output is limited."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
import pytest
from calls_in_threads import error_of_call_that_ends
from ssh_server import SOON, Dropbear, Server

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest import overdue_ssh_waits
from harness.guest.keys import RunKeys
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
    server.behavior = lambda *_: None
    late(server.link(), REQUESTS[name])


@pytest.mark.parametrize("name", ["command", "shell"])
def test_a_server_that_drips(server: Server, name: str) -> None:
    """A byte now and then does not extend the deadline."""

    def drip(channel: paramiko.Channel, _: str) -> None:
        with contextlib.suppress(OSError):
            while not channel.closed:
                channel.sendall(b".")
                time.sleep(0.01)

    server.behavior = drip
    late(server.link(), REQUESTS[name])


@pytest.mark.parametrize("name", ["command", "shell", "dialogue"])
@pytest.mark.parametrize("stream", ["sendall", "sendall_stderr"])
def test_a_server_that_floods(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, stream: str) -> None:
    monkeypatch.setattr("harness.guest.ssh.MOST_OUTPUT", 4 << 20)

    def flood(channel: paramiko.Channel, _: str) -> None:
        with contextlib.suppress(OSError):
            while not channel.closed:
                getattr(channel, stream)(b"x" * 65536)

    server.behavior = flood
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

    server.behavior = flood
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
    server.behavior = lambda *_: None
    with link.close_channel_at_deadline(channel, Deadline.after(0.5)):
        channel.exec_command("sh")
    time.sleep(1)
    assert not channel.closed


def talking(talk: Callable[[socket.socket], Any]) -> SshConnection:
    """Return a connection to a server that talks as a test wants, before any login."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, contextlib.suppress(OSError), listener.accept()[0] as connection:
            talk(connection)

    threading.Thread(target=serve, daemon=True).start()
    return SshConnection("a-vm", listener.getsockname()[1], RunKeys.make())


def drip_banner(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def send_huge_packet(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-x\r\n\x7f\xff\xff\xfc" + b"\x04" * 12)
    while True:
        connection.sendall(b"x" * (1 << 20))


def stall(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-x\r\n")
    time.sleep(SOON)


@pytest.mark.parametrize("talk", [drip_banner, send_huge_packet, stall])
def test_a_login_that_fails_leaves_nothing_that_reads_on(talk: Callable[[socket.socket], Any]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    threads = {each for each in threading.enumerate() if isinstance(each, paramiko.Transport)}
    link = talking(talk)
    began = time.monotonic()
    with pytest.raises(GuestLost, match="no SSH server answers"):
        link.connect(Deadline.after(2))
    assert time.monotonic() - began < 12
    deadline = Deadline.after(SOON)
    while {each for each in threading.enumerate() if isinstance(each, paramiko.Transport)} - threads:
        deadline.require_time_left("the end of the thread that reads")
        time.sleep(0.05)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_server_that_ignores_the_window_between_commands(server: Server) -> None:
    """Nobody reads the shell's output between two commands."""
    stop = threading.Event()

    def flood(channel: paramiko.Channel, _: str) -> None:
        channel.out_window_size = 1 << 40
        with contextlib.suppress(OSError):
            while not channel.closed and not stop.is_set():
                channel.sendall(b"x" * 65536)

    server.behavior = flood
    link = server.link()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    channel = link.open_channel(Deadline.after(SOON))
    channel.exec_command("sh")
    time.sleep(3)
    stop.set()
    assert not link.alive
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("name", ["input", "dialogue"])
def test_a_server_that_stops_reading(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It opens the window wide, and then reads nothing from its socket: paramiko waits in send() of the socket."""
    monkeypatch.setattr(overdue_ssh_waits, "_MOST_LAPS", 1)

    class Unread:
        def __init__(self, connection: socket.socket) -> None:
            self._connection = connection

        def __getattr__(self, attribute: str) -> object:
            return getattr(self._connection, attribute)

        def recv(self, _: int) -> bytes:
            time.sleep(SOON)
            return b""

    def stop_reading(channel: paramiko.Channel, _: str) -> None:
        adjust = paramiko.Message()
        adjust.add_byte(paramiko.common.cMSG_CHANNEL_WINDOW_ADJUST)
        adjust.add_int(channel.remote_chanid)
        adjust.add_int(1 << 30)
        channel.transport._send_user_message(adjust)
        channel.transport.packetizer._Packetizer__socket = Unread(channel.transport.sock)

    server.behavior = stop_reading
    link = server.link()

    def speak() -> None:
        dialogue = Dialogue("a-vm", link, ("cat",), Deadline.after(SOON))
        while dialogue._channel.out_window_size < 1 << 29:
            time.sleep(0.01)
        dialogue.send_line("x" * (64 << 20), Deadline.after(1))

    send = speak if name == "dialogue" else lambda: REQUESTS["input"](link, Deadline.after(1))
    assert "stopped reading" in str(error_of_call_that_ends(send, GuestLost, DeadlineExceeded))
