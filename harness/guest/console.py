"""A guest's serial console: always drained, partly kept in memory, written to a log, searched by pexpect."""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect
from pexpect.spawnbase import SpawnBase

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.console_output_spill_file import SpilledOutput
from harness.guest.size_limited_console_log import ConsoleLog

# The amount kept in memory.
_KEPT_BYTES = 8 << 20
_CHUNK = 1 << 16
# When QEMU reports that the guest stopped, the last output is already in the socket; reading it takes moments.
_LAST_WORDS_SECONDS = 0.3
# Between parts of typed text: an idle guest reads eight bytes within a tick of 4 ms.
_TYPING_PAUSE = 0.04
# pexpect searches this many of the last bytes. Two chunks contain every line that the end of a chunk cuts in two.
_WINDOW = 2 * _CHUNK
# The longest prefix of a kernel log record: level, time and caller.
_PREFIX_BYTES = 256


class Transcript:
    """The last bytes of an endless stream; a position is the number of bytes from the stream's beginning.

    A UART sends one byte at a time, so bytes are collected in one buffer. When the buffer has grown to twice the limit,
    it is cut back to the limit. Bytes that are cut off are kept in a file if they are at or after the last position
    passed to `drop_before`.
    """

    def __init__(self, limit: int = _KEPT_BYTES, spill: Path | None = None) -> None:
        """Start an empty transcript; `spill` is the directory of the file."""
        self._limit = limit
        self._spilled = SpilledOutput(spill)
        self._wanted = 0
        self._kept = bytearray()
        self._begin = 0
        self._closed = False
        self._news = threading.Condition()

    @property
    def end_position(self) -> int:
        """The position after the last byte."""
        with self._news:
            return self._end

    def append(self, content: bytes) -> None:
        """Add bytes at the end."""
        with self._news:
            self._kept += content
            if len(self._kept) > 2 * self._limit:
                surplus = len(self._kept) - self._limit
                if self._wanted < self._begin + surplus:
                    self._spilled.append(self._begin, bytes(self._kept[:surplus]))
                del self._kept[:surplus]
                self._begin += surplus
            self._news.notify_all()

    def close(self) -> None:
        """Mark the stream as ended."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def drop_before(self, position: int) -> None:
        """Drop what came before this position from the file: `read_pieces` will not be called for it again."""
        with self._news:
            self._wanted = position
            if position >= self._begin:
                self._spilled.clear(self._begin)

    def read_pieces(self, start: int, end: int | None = None) -> Iterator[bytes]:
        """Yield everything between two positions in pieces; without `end`, everything up to the last byte.

        Raises LookupError when a part of it is no longer kept.
        """
        with self._news:
            begin, last = self._begin, self._end if end is None else end
            spilled = self._spilled
            if start < begin and not (spilled.whole and spilled.begin <= start and spilled.end == begin):
                raise LookupError(f"{begin - start} bytes were forgotten")
            recent = self._between(start, last)
        yield from spilled.read(start, min(begin, last))
        yield recent

    def close_file(self) -> None:
        """Close the file."""
        with self._news:
            self._spilled.close()

    def read_from_memory(self, start: int, end: int | None = None) -> bytes:
        """Return what is in memory between two positions; without `end`, everything up to the last byte."""
        with self._news:
            return self._between(start, self._end if end is None else end)

    def await_bytes_since(self, position: int, deadline: Deadline) -> tuple[bytes, int]:
        """Wait for bytes at or after a position; return up to 64 KiB of them and the position after them.

        The bytes are empty if the stream has ended. Raises DeadlineExceeded.
        """
        with self._news:
            while self._end <= position and not self._closed:
                if not self._news.wait(deadline.lap_seconds()) and deadline.expired:
                    raise DeadlineExceeded("nothing more on the console")
            end = min(self._end, max(position, self._begin) + _CHUNK)
            return self._between(position, end), end

    @property
    def _end(self) -> int:
        return self._begin + len(self._kept)

    def _between(self, start: int, end: int) -> bytes:
        return bytes(self._kept[max(0, start - self._begin) : max(0, end - self._begin)])


class _Reader(SpawnBase):  # type: ignore[misc]  # pexpect has no types
    """pexpect's view of a transcript from a position on; it never delays the draining."""

    def __init__(self, transcript: Transcript, position: int, deadline: Deadline) -> None:
        super().__init__(maxread=_CHUNK, searchwindowsize=_WINDOW)
        self._transcript = transcript
        self._deadline = deadline
        self._last: int | None = None
        self._waiting = b""
        self.position = position

    @property
    def unread(self) -> int:
        """Number of bytes before `position` that pexpect has not searched, or that come after its match."""
        return len(self._waiting) + len(self.buffer)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """Return up to `size` bytes for SpawnBase. Raises pexpect.TIMEOUT at the deadline, EOF at the end."""
        if not self._waiting:
            if self._last is None and self._deadline.expired:
                # What arrived while this process did not run is searched after the deadline.
                self._last = self._transcript.end_position
            if self._last is not None and self.position >= self._last:
                raise pexpect.TIMEOUT("console")
            try:
                self._waiting, self.position = self._transcript.await_bytes_since(self.position, self._deadline)
            except DeadlineExceeded:
                raise pexpect.TIMEOUT("console") from None
            if not self._waiting:
                raise pexpect.EOF("console")
        content, self._waiting = self._waiting[:size], self._waiting[size:]
        # pexpect would keep everything that came before a match, without limit in a flood that has no match.
        self._before = self.buffer_type()
        return content


@dataclass(frozen=True)
class ConsoleMatch:
    """A match on the console: the pattern's index, the matched text, and the positions of its start and end."""

    pattern_index: int
    text: str
    start: int
    end: int


class Console:
    """One guest's console; a thread drains the socket all the time, so that the guest never waits for the harness."""

    def __init__(
        self, name: str, connection: socket.socket, spill: Path | None = None, log: ConsoleLog | None = None
    ) -> None:
        """Start to drain to `log`; `spill` is the directory for output that is needed but no longer in memory."""
        self._name = name
        self._connection = connection
        self._log = log
        self._transcript = Transcript(spill=spill)
        self._thread = threading.Thread(target=self._drain, name=f"console {name}", daemon=True)
        self._thread.start()

    @property
    def position(self) -> int:
        """Number of bytes received so far."""
        return self._transcript.end_position

    def text(self, since: int = 0, until: int | None = None) -> str:
        """Return the text in memory between two positions, with a newline at each line's end."""
        return _readable(self._transcript.read_from_memory(since, until))

    def lines(self, since: int, until: int | None = None) -> Iterator[str]:
        """Yield everything between two positions line by line, each with its newline; the last line may have none.

        Raises GuestError when a part of it is no longer kept: unreadable output must not count as no output.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest: list[str] = []
        try:
            for piece in self._transcript.read_pieces(since, until):
                first, *more = decoder.decode(piece).split("\n")
                rest.append(first)
                for line in more:
                    yield "".join(rest) + "\n"
                    rest = [line]
        except LookupError as error:
            mend = "print less on the console in one cell"
            raise GuestError(f"its console cannot be read whole: {error}", where=self._name, mend=mend) from None
        yield "".join(rest) + decoder.decode(b"", final=True)

    def drop_before(self, position: int) -> None:
        """Drop what came before this position: `lines` will not be called for it."""
        self._transcript.drop_before(position)

    def find_record_start(self, position: int, since: int) -> int:
        """Return the start of the record whose text starts at a position; at least `since`."""
        begin = max(since, position - _PREFIX_BYTES)
        before = self._transcript.read_from_memory(begin, position)
        end = before.rfind(b"\n")
        return position - len(before) + end + 1 if end >= 0 else position

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the last lines."""
        return self.text().splitlines()[-count:]

    def type(self, text: bytes, *, at_once: int = 0) -> None:
        """Send text to the guest as if it were typed at the console. Raises GuestLost when QEMU is gone.

        Not more than `at_once` bytes are sent without a pause, in which the guest reads them; 0: all are.
        """
        step = at_once or len(text)
        try:
            for start in range(0, len(text), step):
                self._connection.sendall(text[start : start + step])
                time.sleep(_TYPING_PAUSE if at_once else 0)
        except OSError:
            raise GuestLost("the console closed", where=self._name) from None

    def await_line(self, patterns: Sequence[str], deadline: Deadline, *, since: int = 0) -> ConsoleMatch:
        """Wait for the first match of one of these regular expressions at or after a position.

        Raises GuestLost when the console closes first because QEMU ended, and DeadlineExceeded.
        """
        reader = _Reader(self._transcript, since, deadline)
        compiled = [re.compile(pattern.encode()) for pattern in patterns]
        try:
            # pexpect's own timeout is on the host's date.
            index = reader.expect_list(compiled, timeout=None)
        except pexpect.EOF:
            raise GuestLost("the console closed", where=self._name) from None
        except pexpect.TIMEOUT:
            wanted = " or ".join(patterns)
            raise DeadlineExceeded(f"no {wanted!r} on the console in time", where=self._name) from None
        end = reader.position - reader.unread
        return ConsoleMatch(index, _readable(reader.match[0]), end - len(reader.match[0]), end)

    def end_waits_soon(self) -> None:
        """End all waits for a line shortly: the guest has stopped, and only output in the socket still arrives."""
        timer = threading.Timer(_LAST_WORDS_SECONDS, self._transcript.close)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Close the connection and wait until the draining thread ends."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()
        self._transcript.close_file()
        if self._log:
            self._log.close()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while content := self._connection.recv(_CHUNK):
                if self._log:
                    self._log.write(content)
                self._transcript.append(content)
        self._transcript.close()


def _readable(content: bytes) -> str:
    """Return serial output as text: CR LF becomes newline, bytes that are not UTF-8 become replacement characters."""
    return content.decode(errors="replace").replace("\r\n", "\n")
