"""One shell in a guest that runs command after command."""

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
from harness.guest.result import Result, readable, typed
from harness.guest.ssh import Output, SshLink

_CHUNK = 1 << 16
# Longest exit status and the line ends around the mark.
_STATUS = 8
# Words that are no programs, and would act on the shell itself.
_OF_THE_SHELL = frozenset({"cd", "eval", "exec", "exit", "export", "read", "return", "set", "trap", "ulimit", "umask"})


class Shell:
    """Runs commands in a shell that stays, where SSH alone costs a channel, a process and a shell for each.

    Measured on an emulated parisc: 57 ms for a round trip instead of 124 ms. Each script has a subshell of its own, so
    that directory, variables and exit leave the next one alone; a single program needs none, nor does a script whose
    writer says so (`in_place`), which saves 27 of these 57 ms. Only one can run at a time; others, and one with
    standard input, take a channel of their own.
    """

    def __init__(self, name: str, link: SshLink) -> None:
        self._name = name
        self._link = link
        self._turn = threading.Lock()
        self._channel: paramiko.Channel | None = None

    def run(self, argv: Sequence[str], deadline: Deadline, *, in_place: bool = False) -> Result:
        """Run a program; whatever its exit status, that is for the caller to judge.

        `in_place` is for a script, `sh -c TEXT`, that neither exits nor changes anything of the shell but variables.

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
        with self._link.told(argv, deadline):
            if self._channel is None:
                self._channel = self._link.open(deadline)
                with self._link.request(self._channel, deadline):
                    self._channel.exec_command("sh")
            output = Output(self._name, argv)
            answer = _Exchange(self._channel, _text(argv, in_place=in_place), output).run(deadline)
        if answer is None:
            raise GuestError(f"the guest's shell ended during `{typed(argv)}`", where=self._name)
        return Result(self._name, tuple(argv), *answer, time.monotonic() - began)

    def _give_up(self) -> None:
        """Close the channel: what still runs there must not speak into the next command's output."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                channel.close()


def _text(argv: Sequence[str], *, in_place: bool) -> str:
    """What the shell is to run; `sh -c TEXT` needs no second shell."""
    match list(argv):
        case ["sh", "-c", text]:
            return f"{{ {text}\n}}" if in_place else f"( eval {shlex.quote(text)}\n)"
        case [program, *_] if program in _OF_THE_SHELL:
            return f"( {shlex.join(argv)} )"
    return shlex.join(argv)


@dataclass
class _Exchange:
    """One command and its outputs, each ended by a mark that no program can guess."""

    channel: paramiko.Channel
    text: str
    output: Output

    def run(self, deadline: Deadline) -> tuple[int, bytes, bytes] | None:
        """Exit status and both outputs; None when the shell ended. Raises TimeoutError."""
        mark = secrets.token_hex(8)
        command = f"{self.text} </dev/null; printf '\\n%s %d\\n' {mark} $?; echo {mark} >&2\n"
        unsent = memoryview(command.encode())
        while unsent and not deadline.expired:
            self.channel.settimeout(max(0.001, deadline.remaining()))
            unsent = unsent[self.channel.send(unsent[:_CHUNK].tobytes()) :]
        out, err = self.output.out, self.output.err
        arrival = select.poll()
        arrival.register(self.channel.fileno(), select.POLLIN)
        end = f"{mark}\n".encode()
        while mark.encode() not in out[-len(mark) - _STATUS :] or not err.endswith(end) or not out.endswith(b"\n"):
            if self.channel.eof_received:
                return None
            if self.channel.closed:
                raise EOFError("closed without a word")
            if deadline.expired or not arrival.poll(deadline.remaining() * 1000):
                raise TimeoutError("deadline")
            self.output.receive(self.channel)
        said, _, rest = bytes(out).rpartition(f"\n{mark} ".encode())
        with readable("the exit status of a command"):
            return int(rest), said, bytes(err).removesuffix(end)
