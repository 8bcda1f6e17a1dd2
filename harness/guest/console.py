"""A guest's serial console: always drained, kept within bounds in memory, whole on disk, searched by pexpect."""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect
from pexpect.spawnbase import SpawnBase

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.spilled import Spilled

# What is kept in memory; QEMU writes the whole of it to the log file.
_KEPT_BYTES = 8 << 20
_CHUNK = 1 << 16
# What QEMU has written when it reports that the guest stopped is in the socket; reading it takes moments.
_LAST_WORDS_SECONDS = 0.3
# pexpect searches the last window of what it was fed; two chunks hold any line that a chunk's end cuts.
_WINDOW = 2 * _CHUNK
# The longest beginning of a record before its text: level, time and caller.
_PREFIX_BYTES = 256


class Transcript:
    """The last bytes of an endless stream, each known by its position from the stream's beginning.

    A UART sends a byte at a time, so bytes are gathered in one buffer; it is cut back to the limit when it has grown to
    twice that. What is cut off is kept in a file, from the last position that `keep_from` was called with.
    """

    def __init__(self, limit: int = _KEPT_BYTES, spill: Path | None = None) -> None:
        """`spill` is the directory that the file goes into."""
        self._limit = limit
        self._spilled = Spilled(spill)
        self._wanted = 0
        self._kept = bytearray()
        self._begin = 0
        self._closed = False
        self._news = threading.Condition()

    @property
    def end(self) -> int:
        """The position after the last byte."""
        with self._news:
            return self._end

    def append(self, content: bytes) -> None:
        """Add to the end."""
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
        """Nothing more will come."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def keep_from(self, position: int) -> None:
        """Nobody will ask `pieces` for what came before this position any more."""
        with self._news:
            self._wanted = position
            if position >= self._begin:
                self._spilled.clear(self._begin)

    def pieces(self, start: int, end: int | None = None) -> Iterator[bytes]:
        """Everything between two positions, up to the last byte without an end, in pieces.

        Raises LookupError when a part of it is kept nowhere.
        """
        with self._news:
            begin, last = self._begin, self._end if end is None else end
            spilled = self._spilled
            if start < begin and not (spilled.whole and spilled.begin <= start and spilled.end == begin):
                raise LookupError(f"{begin - start} bytes were forgotten")
            recent = self._between(start, last)
        yield from spilled.read(start, min(begin, last))
        yield recent

    def release(self) -> None:
        """Close the file."""
        with self._news:
            self._spilled.close()

    def between(self, start: int, end: int | None = None) -> bytes:
        """What is kept between two positions, up to the last byte without an end."""
        with self._news:
            return self._between(start, self._end if end is None else end)

    def wait_since(self, position: int, deadline: Deadline) -> tuple[bytes, int]:
        """Up to 64 KiB of what is kept from a position on, once there is anything, and the position after it.

        Empty when nothing more will come. Raises DeadlineExceeded.
        """
        with self._news:
            while self._end <= position and not self._closed:
                if not self._news.wait(deadline.remaining()):
                    raise DeadlineExceeded("nothing more on the console")
            end = min(self._end, max(position, self._begin) + _CHUNK)
            return self._between(position, end), end

    @property
    def _end(self) -> int:
        return self._begin + len(self._kept)

    def _between(self, start: int, end: int) -> bytes:
        return bytes(self._kept[max(0, start - self._begin) : max(0, end - self._begin)])


class _Reader(SpawnBase):  # type: ignore[misc]  # pexpect has no types
    """pexpect's view of a transcript, from a position on. It never holds up the draining."""

    def __init__(self, transcript: Transcript, position: int) -> None:
        super().__init__(maxread=_CHUNK, searchwindowsize=_WINDOW)
        self._transcript = transcript
        self._waiting = b""
        self.position = position

    @property
    def unread(self) -> int:
        """Bytes up to `position` that pexpect has not searched, or has searched and found beyond its match."""
        return len(self._waiting) + len(self.buffer)

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> bytes:
        """Up to `size` bytes, as SpawnBase asks: raises pexpect.TIMEOUT after `timeout` seconds, EOF at the end."""
        if not self._waiting:
            try:
                seconds = self.timeout if timeout == -1 or timeout is None else timeout
                self._waiting, self.position = self._transcript.wait_since(self.position, Deadline.after(seconds))
            except DeadlineExceeded:
                raise pexpect.TIMEOUT("console") from None
            if not self._waiting:
                raise pexpect.EOF("console")
        given, self._waiting = self._waiting[:size], self._waiting[size:]
        # pexpect would keep all that came before a match; a flood has no match.
        self._before = self.buffer_type()
        return given


@dataclass(frozen=True)
class Heard:
    """What was waited for: the pattern's index, the matched text, and where on the console it starts and ends."""

    index: int
    text: str
    start: int
    end: int


class Console:
    """One guest's console. A thread drains the socket from the beginning, so that the guest never waits for us."""

    def __init__(self, name: str, connection: socket.socket, spill: Path | None = None) -> None:
        """`spill` is the directory for what memory does not keep, for as long as it may be asked for."""
        self._name = name
        self._connection = connection
        self._transcript = Transcript(spill=spill)
        self._thread = threading.Thread(target=self._drain, name=f"console {name}", daemon=True)
        self._thread.start()

    @property
    def position(self) -> int:
        """How many bytes have come so far."""
        return self._transcript.end

    def text(self, since: int = 0, until: int | None = None) -> str:
        """What is kept of the console between two positions, one newline a line."""
        return _readable(self._transcript.between(since, until))

    def lines(self, since: int, until: int | None = None) -> Iterator[str]:
        """Everything that came between two positions, line by line, each with its newline; the last may have none.

        Raises GuestError when a part of it is kept nowhere: what cannot be read must not pass for nothing.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest: list[str] = []
        try:
            for piece in self._transcript.pieces(since, until):
                first, *more = decoder.decode(piece).split("\n")
                rest.append(first)
                for line in more:
                    yield "".join(rest) + "\n"
                    rest = [line]
        except LookupError as error:
            mend = "print less on the console in one cell"
            raise GuestError(f"its console cannot be read whole: {error}", where=self._name, mend=mend) from None
        yield "".join(rest) + decoder.decode(b"", final=True)

    def keep_from(self, position: int) -> None:
        """Let go of what came before this position: `lines` will not be asked for it."""
        self._transcript.keep_from(position)

    def record_start(self, position: int, since: int) -> int:
        """Where the record begins whose text begins at a position; not before `since`."""
        begin = max(since, position - _PREFIX_BYTES)
        before = self._transcript.between(begin, position)
        end = before.rfind(b"\n")
        return position - len(before) + end + 1 if end >= 0 else position

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines."""
        return self.text().splitlines()[-count:]

    def type(self, text: bytes) -> None:
        """Send to the guest what a person would type. Raises GuestLost when QEMU is gone."""
        try:
            self._connection.sendall(text)
        except OSError:
            raise GuestLost("the console closed", where=self._name) from None

    def await_line(self, patterns: Sequence[str], deadline: Deadline, *, since: int = 0) -> Heard:
        """Wait for the first match of one of these regular expressions at or after a position.

        Raises GuestLost when the console closes first (QEMU ended), DeadlineExceeded.
        """
        reader = _Reader(self._transcript, since)
        compiled = [re.compile(pattern.encode()) for pattern in patterns]
        try:
            index = reader.expect_list(compiled, timeout=deadline.remaining())
        except pexpect.EOF:
            raise GuestLost("the console closed", where=self._name) from None
        except pexpect.TIMEOUT:
            wanted = " or ".join(patterns)
            raise DeadlineExceeded(f"no {wanted!r} on the console in time", where=self._name) from None
        end = reader.position - reader.unread
        return Heard(index, _readable(reader.match[0]), end - len(reader.match[0]), end)

    def end_soon(self) -> None:
        """The guest has stopped: what is under way still arrives, then whoever waits for a line is told."""
        timer = threading.Timer(_LAST_WORDS_SECONDS, self._transcript.close)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Hang up, and let the draining thread end."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()
        self._transcript.release()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while content := self._connection.recv(_CHUNK):
                self._transcript.append(content)
        self._transcript.close()


def _readable(content: bytes) -> str:
    """Serial lines end in CR LF; what is no UTF-8 shows as replacement characters."""
    return content.decode(errors="replace").replace("\r\n", "\n")
