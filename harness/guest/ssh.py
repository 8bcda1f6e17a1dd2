"""The SSH connection to a guest: commands, their results, and files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import paramiko

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost, GuestNotRun
from harness.guest.bounded_ssh_transport import BoundedTransport
from harness.guest.keys import RunKeys
from harness.guest.overdue_ssh_waits import OverdueWaits
from harness.guest.result import Result, as_typed_command

_LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 16
# Limit for the output of one command, in bytes, both streams together.
MOST_OUTPUT = 64 << 20
# The library also logs the errors that it raises, with tracebacks.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)
# Interval of keepalive messages on an idle connection, in seconds.
_KEEPALIVE = 30


def _transport(sock: socket.socket, **options: bool) -> BoundedTransport:
    """Return a transport with the algorithms of both dropbear 2022.83 and paramiko that cost an emulated CPU least.

    Measured on an emulated parisc, medians side by side: key exchange with Curve25519 0.56 s, with NIST P-256 0.90 s,
    with Diffie-Hellman group 14 2.8 s; a file of 1 MiB with AES-128 1.6 s, with AES-256 2.3 s. The hash made no
    difference.
    """
    transport = BoundedTransport(sock, **options)
    offer = transport.get_security_options()
    offer.kex = ("curve25519-sha256@libssh.org",)
    offer.ciphers = ("aes128-ctr",)
    offer.digests = ("hmac-sha2-256",)
    offer.key_types = ("ssh-ed25519",)
    return transport


class SshConnection:
    """A connection to a guest's dropbear, which must prove that it has the host key of this run."""

    def __init__(self, name: str, port: int, keys: RunKeys) -> None:
        self._name = name
        self._port = port
        self._keys = keys
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self._client.get_host_keys().add(f"[{_LOOPBACK}]:{port}", keys.guest_host_key.get_name(), keys.guest_host_key)
        self._connection = socket.socket()
        self._cut = ""
        self._overdue = OverdueWaits(name, lambda: self.alive, self._break_late)
        self.handshake_seconds = 0.0
        self.waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    def connect(self, deadline: Deadline) -> None:
        """Log in as root. Raises GuestLost when no server answers, GuestError when a key is refused on either side."""
        began = time.monotonic()
        seconds = deadline.remaining()
        try:
            self._connection.settimeout(seconds)
            self._connection.connect((_LOOPBACK, self._port))
            if self._cut:  # cut() was called before the connection existed.
                raise ConnectionAbortedError
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client.connect(
                _LOOPBACK,
                self._port,
                username="root",
                pkey=self._keys.client_key,
                sock=self._connection,
                allow_agent=False,
                look_for_keys=False,
                timeout=seconds,
                banner_timeout=seconds,
                auth_timeout=seconds,
                transport_factory=_transport,
            )
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as stranger:
            self.close()
            raise GuestError(f"the SSH server is not the one we set up: {stranger}", where=self._name) from None
        except (paramiko.SSHException, OSError, EOFError) as silence:
            # paramiko's thread would read on without end.
            self.close()
            raise GuestLost(self._cut or f"no SSH server answers: {silence}", where=self._name) from None
        self._transport.set_keepalive(_KEEPALIVE)
        self.handshake_seconds = time.monotonic() - began

    @property
    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None:
            raise GuestLost(self._cut or "no SSH connection", where=self._name)
        return transport

    def open_channel(self, deadline: Deadline) -> paramiko.Channel:
        """Return a channel for one command. Must be called inside `as_guest_errors`, which converts its exceptions."""
        while True:
            seconds = max(1.0, deadline.remaining())
            try:
                return self._transport.open_session(timeout=seconds)
            except paramiko.ChannelException:
                raise
            except paramiko.SSHException:
                # paramiko reads the host's date, and the guest's time may pass more slowly.
                if deadline.expired or not self.alive:
                    raise

    @contextlib.contextmanager
    def close_channel_at_deadline(self, channel: paramiko.Channel, deadline: Deadline) -> Iterator[None]:
        """Limit a request on a channel in the block: paramiko waits for the reply without a timeout.

        The channel is closed at the deadline if the server replies to heartbeats but not to the request.
        """

        answered = threading.Event()

        def close_late() -> None:
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError, GuestNotRun):
                if deadline.wait(answered):
                    return
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                channel.close()

        threading.Thread(target=close_late, name=f"limit {self._name}", daemon=True).start()
        try:
            yield
        finally:
            answered.set()

    @contextlib.contextmanager
    def as_guest_errors(self, argv: Sequence[str], deadline: Deadline) -> Iterator[None]:
        """Convert exceptions of the connection during this command into GuestLost or DeadlineExceeded."""
        try:
            with self.waiting(), self._overdue.limit(deadline):
                yield
        except (paramiko.SSHException, OSError, EOFError) as loss:
            raise self._failure(argv, deadline, loss) from None

    def run(self, argv: Sequence[str], deadline: Deadline, stdin: bytes = b"") -> Result:
        """Run a program in its own channel and return its result; the caller must check the exit status.

        Raises GuestLost when the connection breaks, DeadlineExceeded when the program is still running.
        """
        began = time.monotonic()
        with self.as_guest_errors(argv, deadline), self.open_channel(deadline) as channel:
            with self.close_channel_at_deadline(channel, deadline):
                channel.exec_command(shlex.join(argv))
            rc, out, err = _Exchange(channel, LimitedOutput(self._name, argv), stdin).run(deadline)
        return Result(self._name, tuple(argv), rc, out, err, time.monotonic() - began)

    def put(self, content: bytes | Path, to: str, mode: int, deadline: Deadline) -> None:
        """Write a file in the guest under a temporary name, compare it by SHA-256 and rename it. dropbear has no SFTP.

        Raises GuestError when the file arrived damaged.
        """
        sent = content.read_bytes() if isinstance(content, Path) else content
        digest = hashlib.sha256(sent).hexdigest()
        part, place = shlex.quote(f"{to}.part"), shlex.quote(to)
        script = f"cat >{part} && sha256sum <{part} && chmod {mode:o} {part} && mv {part} {place}"
        result = self.run(("sh", "-c", script), deadline, stdin=sent).check()
        if result.stdout.split()[:1] != [digest]:
            raise GuestError(f"{to} arrived damaged", where=self._name)

    def send_keepalive(self) -> None:
        """Send a request that the server must refuse (RFC 4254, 4); return on the reply or on a broken connection."""
        self._transport.global_request("beat@pinpoint", wait=True)

    @property
    def alive(self) -> bool:
        """False once the connection is closed or known to be broken."""
        transport = self._client.get_transport()
        return not self._cut and transport is not None and bool(transport.is_active())

    def break_connection(self, reason: str) -> None:
        """Break the connection because the guest has stopped; every wait on it raises GuestLost with this reason."""
        self._cut = reason
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _break_late(self) -> None:
        self.break_connection("the SSH server stopped reading")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._connection.close()

    def _failure(self, argv: Sequence[str], deadline: Deadline, loss: BaseException) -> GuestError | DeadlineExceeded:
        """Return GuestLost for a broken connection, DeadlineExceeded for one that still works."""
        if deadline.expired and self.alive:
            return DeadlineExceeded(f"`{as_typed_command(argv)}` did not end in time", where=self._name)
        why = self._cut or f"the SSH connection broke: {loss}"
        return GuestLost(f"{why}, during `{as_typed_command(argv)}`", where=self._name)


class LimitedOutput:
    """The output of a command, up to a limit that is far above what the harness's commands print."""

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        self._name = name
        self._argv = argv
        self.out = bytearray()
        self.err = bytearray()

    def receive_from_channel(self, channel: paramiko.Channel) -> None:
        """Read what has arrived. Raises GuestError when the output exceeds the limit."""
        while channel.recv_ready() or channel.recv_stderr_ready():
            if channel.recv_ready():
                self.out += channel.recv(_CHUNK)
            if channel.recv_stderr_ready():
                self.err += channel.recv_stderr(_CHUNK)
            if len(self.out) + len(self.err) > MOST_OUTPUT:
                what = f"`{as_typed_command(self._argv)}` printed more than {MOST_OUTPUT >> 20} MiB"
                raise GuestError(what, where=self._name)


class _Exchange:
    """One command's standard streams, sent and received in turn so that neither side blocks the other."""

    def __init__(self, channel: paramiko.Channel, output: LimitedOutput, stdin: bytes) -> None:
        self._channel = channel
        self._output = output
        self._unsent = memoryview(stdin)

    def run(self, deadline: Deadline) -> tuple[int, bytes, bytes]:
        """Return the exit status and both outputs. Raises TimeoutError, and EOFError when the connection breaks."""
        channel = self._channel
        arrival = select.poll()
        arrival.register(channel.fileno(), select.POLLIN)
        if not self._unsent:
            channel.shutdown_write()
        while not (channel.eof_received or channel.closed):
            if self._unsent:
                self._send(deadline)
            else:
                arrival.poll(deadline.lap_seconds() * 1000)
            self._output.receive_from_channel(channel)
            if deadline.expired and not (channel.eof_received or channel.closed):
                raise TimeoutError("deadline")
        self._output.receive_from_channel(channel)
        if not deadline.wait(channel.status_event):
            raise TimeoutError("deadline")
        if not channel.get_transport().is_active():
            raise EOFError("closed by the guest")
        return channel.recv_exit_status(), bytes(self._output.out), bytes(self._output.err)

    def _send(self, deadline: Deadline) -> None:
        """Send as much as the guest's window allows; wait a lap while it is closed, which the guest alone opens."""
        sent = send_within_lap(self._channel, self._unsent[:_CHUNK].tobytes(), deadline)
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._channel.shutdown_write()


def send_within_lap(channel: paramiko.Channel, content: bytes, deadline: Deadline) -> int:
    """Send what the guest's window allows; return how many bytes were sent, 0 if the window stayed closed for a lap."""
    channel.settimeout(deadline.lap_seconds())
    try:
        return int(channel.send(content))
    except TimeoutError:
        return 0
