"""An interactive program in a guest: lines in and out, with pexpect over a channel of the SSH connection."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import paramiko
import pexpect
from pexpect.spawnbase import SpawnBase

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError
from harness.guest.result import as_typed_command
from harness.guest.ssh import MOST_OUTPUT, SshConnection, send_within_lap

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 20


class _Stdout(SpawnBase):  # type: ignore[misc]  # pexpect has no types
    """pexpect's view of a channel's output, including standard error."""

    def __init__(self, name: str, channel: paramiko.Channel) -> None:
        super().__init__(maxread=_CHUNK)
        self._name = name
        self._channel = channel
        self._received = 0
        self._deadline, self._late = Deadline.after(0.0), False

    def read_up_to_newline(self, deadline: Deadline) -> bytes:
        """Return the next line without its newline. Raises pexpect.TIMEOUT at the deadline, EOF at the end."""
        self._deadline, self._late = deadline, False
        # pexpect's own timeout is on the host's date.
        self.expect_list([re.compile(rb"\n")], timeout=None)
        return bytes(self.before)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """Return up to `size` bytes for SpawnBase. Raises pexpect.TIMEOUT at the deadline, EOF at the end."""
        if len(self.buffer) > _LONGEST_LINE:
            raise GuestError(f"a program printed a line of more than {_LONGEST_LINE >> 20} MiB", where=self._name)
        content = self._receive(size)
        if not content:
            raise pexpect.EOF("dialogue")
        self._received += len(content)
        if self._received > MOST_OUTPUT:
            raise GuestError(f"a program printed more than {MOST_OUTPUT >> 20} MiB", where=self._name)
        return content

    def _receive(self, size: int) -> bytes:
        while not self._late:
            # What arrived while this process did not run is read once after the deadline.
            self._late = self._deadline.expired
            self._channel.settimeout(self._deadline.lap_seconds())
            with contextlib.suppress(TimeoutError):
                return bytes(self._channel.recv(size))
        raise pexpect.TIMEOUT("dialogue")


class Dialogue:
    """One program from its start to its end; leaving the `with` block closes the channel and so the standard input."""

    def __init__(self, name: str, link: SshConnection, argv: Sequence[str], deadline: Deadline) -> None:
        self._name = name
        self._link = link
        self._argv = tuple(argv)
        with link.as_guest_errors(self._argv, deadline):
            self._channel = link.open_channel(deadline)
            self._channel.set_combine_stderr(True)
            with link.close_channel_at_deadline(self._channel, deadline):
                self._channel.exec_command(f"exec {shlex.join(self._argv)}")
        self._stdout = _Stdout(name, self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()

    def read_line(self, deadline: Deadline) -> str | None:
        """Return the next line of output without its end; None at the end of the output: `status` returns why.

        Raises DeadlineExceeded when the program prints no line in time.
        """
        with self._link.as_guest_errors(self._argv, deadline):
            try:
                line = self._stdout.read_up_to_newline(deadline)
            except pexpect.EOF:
                return None
            except pexpect.TIMEOUT:
                raise DeadlineExceeded(
                    f"`{as_typed_command(self._argv)}` printed nothing in time", where=self._name
                ) from None
        return line.decode(errors="replace")

    def send_line(self, line: str, deadline: Deadline) -> None:
        """Write one line to the standard input. Raises GuestLost when the connection breaks or the input is closed."""
        with self._link.as_guest_errors(self._argv, deadline):
            unsent = memoryview(f"{line}\n".encode())
            while unsent:
                unsent = unsent[send_within_lap(self._channel, unsent[:_CHUNK].tobytes(), deadline) :]
                if unsent and deadline.expired:
                    raise TimeoutError("deadline")

    def await_exit_status(self, deadline: Deadline) -> int:
        """Wait for the program's end and return its exit status; -1 when a signal ended it.

        Raises GuestLost when the connection broke, DeadlineExceeded when the program still runs.
        """
        with self._link.as_guest_errors(self._argv, deadline):
            if not deadline.wait(self._channel.status_event):
                raise TimeoutError("deadline")
            status = int(self._channel.recv_exit_status())
            if status < 0:
                # A broken connection looks the same for a moment. A connection that opens another channel is intact.
                self._link.open_channel(deadline).close()
            return status

    def close_input(self) -> None:
        """Close the program's standard input, so that it reads end of file."""
        self._channel.shutdown_write()

    def hang_up(self) -> None:
        """Close the channel. A program that waits for a line then reads end of file."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()
