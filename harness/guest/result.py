"""The result of a command in a guest."""

from __future__ import annotations

import shlex
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from harness.core.errors import GuestError

_SHOWN_LINES = 20


@contextmanager
def parsing_guest_text(what: str) -> Iterator[None]:
    """Convert exceptions from parsing a guest's text into GuestError; also usable as a decorator of a parser.

    Any program in a guest can print anything in place of a listing of the kernel or of our modules.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise GuestError(f"{what} cannot be read: {reason}") from None


@dataclass(frozen=True)
class Result:
    """The result of a command in the guest; `rc` is -1 when a signal ended the command.

    Its text form is readable in the message of a failed assertion.
    """

    guest: str
    argv: tuple[str, ...]
    rc: int
    out: bytes = field(repr=False)
    err: bytes = field(repr=False)
    seconds: float

    @cached_property
    def stdout(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become replacement characters."""
        return self.out.decode(errors="replace")

    @cached_property
    def stderr(self) -> str:
        """Standard error as text, decoded like standard output."""
        return self.err.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """True for exit status 0."""
        return self.rc == 0

    @property
    def command(self) -> str:
        """The command as a person would type it."""
        return as_typed_command(self.argv)

    def check(self) -> Result:
        """Return this result if it is ok. Raises GuestError with the command and its output otherwise."""
        if self.ok:
            return self
        printed = " ".join((self.stderr or self.stdout).split())[-300:] or "no output"
        raise GuestError(f"`{self.command}` ended with {self.rc}: {printed}", where=self.guest)

    def __str__(self) -> str:
        lines = [f"{self.guest}$ {self.command}", f"  exit status {self.rc} after {self.seconds:.3f} s"]
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            lines += [f"  {name}: {line}" for line in _shown(text)]
        return "\n".join(lines)

    __repr__ = __str__


def as_typed_command(argv: Sequence[str]) -> str:
    """Return a command as a person would type it; for a script, its text."""
    return argv[2] if tuple(argv[:2]) == ("sh", "-c") else shlex.join(argv)


def _shown(text: str) -> list[str]:
    """Return the first lines of a text and the number of further lines."""
    lines = text.splitlines()
    more = len(lines) - _SHOWN_LINES
    return [*lines[:_SHOWN_LINES], *([f"... {more} more lines"] if more > 0 else [])]
