"""A person in a guest: a shell over its SSH connection, on the terminal Pinpoint was started from."""

from __future__ import annotations

import codecs
import os
import re
import select
import shutil
import signal
import sys
import termios
import tty
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from harness.core.deadline import Deadline
from harness.guest.ssh import SshLink

_CHUNK = 1 << 12
_OPEN_SECONDS = 60.0
# The status of a shell that has closed its output follows at once; a broken connection has none.
_STATUS_SECONDS = 5.0
_STDIN, _STDOUT = 0, 1
# What line editing and colours need (ECMA-48): cursor, erase, insert, delete, graphic rendition, and bracketed paste.
# All else could retitle the terminal, write to its clipboard, or make it type: its answers go to the host's shell.
_HARMLESS = re.compile(r"\x1b\[[0-9;]*[ABCDEFGHJKLMPSTX@dfmr]|\x1b\[\?(?:25|2004)[hl]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
# Bell, backspace, tab and line ends; no other control code is let through, of seven or of eight bits.
_LINE_CONTROLS = frozenset("\a\b\t\n\r")
# A sequence longer than this is none that anybody waits the end of.
_LONGEST = 4096


class Filter:
    """Lets through of a guest's output what cannot harm the terminal it is shown on, however it is cut.

    The output is decoded as UTF-8 first, across the borders of what it comes in, and characters are filtered: what is
    taken out of the middle of bytes could make a control code of those around it.
    """

    def __init__(self) -> None:
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, content: bytes) -> bytes:
        """What may be shown of all that came so far; the beginning of a sequence is held back until its end comes."""
        text = self._held + self._decoder.decode(content)
        begun = _BEGUN.search(text)
        held = begun.start() if begun and len(text) - begun.start() <= _LONGEST else len(text)
        self._held = text[held:]
        return "".join(_pieces(text[:held])).encode()


def _pieces(text: str) -> Iterator[str]:
    place = 0
    for match in _ESCAPE.finditer(text):
        yield _printable(text[place : match.start()])
        if _HARMLESS.fullmatch(match[0]):
            yield match[0]
        place = match.end()
    yield _printable(text[place:])


def _printable(text: str) -> str:
    """The text with spaces of every width as usual ones, without what else Unicode does not count as printable."""
    return "".join(
        each if each.isprintable() or each in _LINE_CONTROLS else " " * (unicodedata.category(each) == "Zs")
        for each in text
    )


def interact(link: SshLink) -> int:
    """Connect a shell in the guest with standard input and output until either ends; gives the shell's exit status.

    On a terminal it is a login shell on one of its own; elsewhere a plain shell that reads commands, so that a script
    can be piped in. Raises GuestLost.
    """
    deadline = Deadline.after(_OPEN_SECONDS)
    with link.told(("sh",), deadline), link.open(deadline) as channel:
        if os.isatty(_STDIN):
            width, height = shutil.get_terminal_size()
            with link.request(channel, deadline):
                channel.get_pty(os.environ.get("TERM", "vt100"), width, height)
                channel.invoke_shell()
            with _raw(), _resized(channel):
                return _carry(channel)
        channel.set_combine_stderr(True)
        with link.request(channel, deadline):
            channel.exec_command("sh")
        return _carry(channel)


def _carry(channel: paramiko.Channel) -> int:
    """Bytes both ways. The shell's end is the end; the end of standard input is told to the shell."""
    harmless = Filter()
    waiting = [_STDIN, channel]
    while True:
        ready, _, _ = select.select(waiting, [], [])
        if _STDIN in ready:
            typed = os.read(_STDIN, _CHUNK)
            if typed:
                channel.sendall(typed)
            else:
                channel.shutdown_write()
                waiting.remove(_STDIN)
        if channel in ready:
            said = channel.recv(_CHUNK)
            if not said:
                channel.status_event.wait(_STATUS_SECONDS)
                return max(0, int(channel.exit_status))
            sys.stdout.flush()
            os.write(_STDOUT, harmless.feed(said))


@contextmanager
def _raw() -> Iterator[None]:
    """Every key goes to the guest as it is typed."""
    before = termios.tcgetattr(_STDIN)
    try:
        tty.setraw(_STDIN)
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


@contextmanager
def _resized(channel: paramiko.Channel) -> Iterator[None]:
    """The guest's terminal has the size of ours."""

    def tell(*_: object) -> None:
        width, height = shutil.get_terminal_size()
        channel.resize_pty(width, height)

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
