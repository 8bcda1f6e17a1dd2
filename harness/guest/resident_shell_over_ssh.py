"""One resident shell in a guest that runs one command after another."""

from __future__ import annotations

import contextlib
import secrets
import select
import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import paramiko

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.result import Result, as_typed_command, parsing_guest_text
from harness.guest.ssh import LimitedOutput, SshConnection, send_within_lap

_CHUNK = 1 << 16
# Bytes of the longest exit status and of the line ends around the mark.
_STATUS = 8
# Builtins that would change the shell itself.
_OF_THE_SHELL = frozenset({"cd", "eval", "exec", "exit", "export", "read", "return", "set", "trap", "ulimit", "umask"})


class Shell:
    """A resident shell for commands; SSH alone needs a channel, a process and a shell for each command.

    Measured on an emulated parisc: 57 ms for a round trip instead of 124 ms. Each script runs in its own subshell, so
    that its directory, variables and exit do not affect the next script. A single program needs no subshell, and
    neither does a script with `in_place`, which saves 27 of these 57 ms. Only one command runs at a time; concurrent
    commands, and commands with standard input, use their own channels.
    """

    def __init__(self, name: str, link: SshConnection) -> None:
        self._name = name
        self._link = link
        self._turn = threading.Lock()
        self._channel: paramiko.Channel | None = None

    def run_program(self, argv: Sequence[str], deadline: Deadline, *, in_place: bool = False) -> Result:
        """Run a program and return its result; the caller must check the exit status.

        `in_place` is for a script, `sh -c TEXT`, that does not exit and changes nothing of the shell except variables.

        Raises GuestLost when the connection breaks, DeadlineExceeded when the program is still running, GuestError
        when the program ended the shell itself.
        """
        if not self._turn.acquire(blocking=False):
            return self._link.run(argv, deadline)
        try:
            return self._run(argv, deadline, in_place=in_place)
        except BaseException:
            self._give_up()
            raise
        finally:
            self._turn.release()

    def _run(self, argv: Sequence[str], deadline: Deadline, *, in_place: bool) -> Result:
        began = time.monotonic()
        with self._link.as_guest_errors(argv, deadline):
            if self._channel is None:
                self._channel = self._link.open_channel(deadline)
                with self._link.close_channel_at_deadline(self._channel, deadline):
                    self._channel.exec_command("sh")
            output = LimitedOutput(self._name, argv)
            answer = _Exchange(self._channel, _text(argv, in_place=in_place), output).run(deadline)
        if answer is None:
            raise GuestError(f"the guest's shell ended during `{as_typed_command(argv)}`", where=self._name)
        return Result(self._name, tuple(argv), *answer, time.monotonic() - began)

    def _give_up(self) -> None:
        """Close the channel: a program that still runs there must not print into the next command's output."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                channel.close()


def _text(argv: Sequence[str], *, in_place: bool) -> str:
    """Return the text for the shell; `sh -c TEXT` needs no second shell."""
    match list(argv):
        case ["sh", "-c", text]:
            return f"{{ {text}\n}}" if in_place else f"( eval {shlex.quote(text)}\n)"
        case [program, *_] if program in _OF_THE_SHELL:
            return f"( {shlex.join(argv)} )"
    return shlex.join(argv)


@dataclass
class _Exchange:
    """One command and its two outputs; a mark that no program can guess ends each output."""

    channel: paramiko.Channel
    text: str
    output: LimitedOutput

    def run(self, deadline: Deadline) -> tuple[int, bytes, bytes] | None:
        """Return the exit status and both outputs; None when the shell ended. Raises TimeoutError and EOFError."""
        mark = secrets.token_hex(8)
        command = f"{self.text} </dev/null; printf '\\n%s %d\\n' {mark} $?; echo {mark} >&2\n"
        unsent = memoryview(command.encode())
        while unsent and not deadline.expired:
            unsent = unsent[send_within_lap(self.channel, unsent[:_CHUNK].tobytes(), deadline) :]
        out, err = self.output.out, self.output.err
        arrival = select.poll()
        arrival.register(self.channel.fileno(), select.POLLIN)
        end, late = f"{mark}\n".encode(), False
        while mark.encode() not in out[-len(mark) - _STATUS :] or not err.endswith(end) or not out.endswith(b"\n"):
            if self.channel.eof_received:
                return None
            if self.channel.closed:
                raise EOFError("closed without an exit status")
            if late:
                raise TimeoutError("deadline")
            # What arrived while this process did not run is read after the deadline.
            late = deadline.expired
            arrival.poll(0 if late else deadline.lap_seconds() * 1000)
            self.output.receive_from_channel(self.channel)
        printed, _, rest = bytes(out).rpartition(f"\n{mark} ".encode())
        with parsing_guest_text("the exit status of a command"):
            return int(rest), printed, bytes(err).removesuffix(end)
