"""A shell in a guest for the user: over SSH, on the terminal that Pinpoint was started from."""

from __future__ import annotations

import codecs
import math
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
from harness.guest.ssh import SshConnection

_CHUNK = 1 << 12
_OPEN_SECONDS = 60.0
# A shell that has closed its output sends its exit status at once; a broken connection sends none.
_STATUS_SECONDS = 5.0
_STDIN, _STDOUT = 0, 1
# How often a shell that does not read its input is tried again.
_SEND_LAP_SECONDS = 0.05
# Sequences for line editing and colors (ECMA-48): cursor, erase, insert, delete, graphic rendition, bracketed paste.
# Other sequences could change the title or the clipboard, or make the terminal reply; the host's shell reads replies.
# Numbers have at most four digits: terminals have spent minutes on, and kept memory for, the insertion of 2^31 lines.
_HARMLESS = re.compile(r"\x1b\[(?:[0-9]{0,4};){0,31}[0-9]{0,4}[ABCDEFGHJKLMPSTX@dfmr]|\x1b\[\?(?:25|2004)[hl]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
# Bell, backspace, tab and line ends. All other control codes, of seven or eight bits, are removed.
_LINE_CONTROLS = frozenset("\a\b\t\n\r")
# A sequence that is still incomplete at this length is not held back any longer.
_LONGEST = 4096


class Filter:
    """Filter that removes everything from a guest's output that could harm the terminal, however the output is split.

    The output is first decoded as UTF-8, also across the borders of its pieces, and then filtered by character:
    removing bytes from the middle could turn the bytes around them into a control code.
    """

    def __init__(self) -> None:
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, content: bytes) -> bytes:
        """Return the harmless part of the output so far; an incomplete sequence is held back until its end arrives."""
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
    """Return the text with every kind of space as U+0020 and without characters that Unicode calls nonprintable."""
    return "".join(
        each if each.isprintable() or each in _LINE_CONTROLS else " " * (unicodedata.category(each) == "Zs")
        for each in text
    )


def interact(link: SshConnection) -> int:
    """Connect a shell in the guest to standard input and output until it ends; return the shell's exit status.

    On a terminal it is a login shell with its own pseudo-terminal. Otherwise it is a plain shell that reads commands,
    so that a script can be piped in. Raises GuestLost.
    """
    # The session itself lasts as long as its user likes.
    with link.as_guest_errors(("sh",), Deadline(math.inf)), _opened(link) as channel:
        if os.isatty(_STDIN):
            with _raw(), _resized(channel):
                return _carry(channel)
        return _carry(channel)


def _opened(link: SshConnection) -> paramiko.Channel:
    """Return a channel with a shell in it, on a terminal with a pseudo-terminal."""
    deadline = Deadline.after(_OPEN_SECONDS)
    with link.as_guest_errors(("sh",), deadline):
        channel = link.open_channel(deadline)
        with link.close_channel_at_deadline(channel, deadline):
            if os.isatty(_STDIN):
                width, height = shutil.get_terminal_size()
                channel.get_pty(os.environ.get("TERM", "vt100"), width, height)
                channel.invoke_shell()
            else:
                channel.set_combine_stderr(True)
                channel.exec_command("sh")
    return channel


def _carry(channel: paramiko.Channel) -> int:
    """Copy bytes both ways until the shell ends; at the end of standard input, close the shell's input.

    Output is read while input waits for the shell: a shell whose output is not read does not read its input either.
    """
    harmless = Filter()
    open_input, unsent = True, b""
    while True:
        waiting = [channel, *([_STDIN] if open_input and not unsent else [])]
        ready, _, _ = select.select(waiting, [], [], _SEND_LAP_SECONDS if unsent else None)
        if _STDIN in ready and not (unsent := os.read(_STDIN, _CHUNK)):
            channel.shutdown_write()
            open_input = False
        if channel in ready:
            output = channel.recv(_CHUNK)
            if not output:
                channel.status_event.wait(_STATUS_SECONDS)
                return max(0, int(channel.exit_status))
            sys.stdout.flush()
            os.write(_STDOUT, harmless.feed(output))
        if unsent and channel.send_ready():
            unsent = unsent[channel.send(unsent) :]


@contextmanager
def _raw() -> Iterator[None]:
    """Put the terminal into raw mode in the block: every key goes to the guest as it is typed."""
    before = termios.tcgetattr(_STDIN)
    try:
        tty.setraw(_STDIN)
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


@contextmanager
def _resized(channel: paramiko.Channel) -> Iterator[None]:
    """Keep the guest's terminal at the size of the host's in the block."""

    def resize(*_: object) -> None:
        width, height = shutil.get_terminal_size()
        channel.resize_pty(width, height)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
