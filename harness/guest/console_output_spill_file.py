"""Console output that is no longer in memory, in an unnamed file that disappears with this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The limit for the output since one fence, so that it cannot fill the disk. Nobody reads more than this.
_MOST_BYTES = 1 << 30
_CHUNK = 1 << 20


class SpilledOutput:
    """One contiguous part of a stream: the bytes from `begin` up to `end`, positions from the stream's beginning.

    `whole` is false once bytes could not be kept, because the disk was full or the limit was reached.
    """

    def __init__(self, directory: Path | None, limit: int = _MOST_BYTES) -> None:
        self._directory = directory
        self._limit = limit
        self._handle = -1
        self.begin = self.end = 0
        self.whole = True

    def append(self, position: int, content: bytes) -> None:
        """Keep bytes that begin at a position; drop earlier bytes that do not end there."""
        if position != self.end:
            self.clear(position)
        if not self.whole:
            self.end = position + len(content)
            return
        try:
            if self._handle < 0:
                self._handle = _nameless(self._directory)
            if position + len(content) - self.begin > self._limit:
                raise OSError("too much")
            done = 0
            while done < len(content):
                done += os.pwrite(self._handle, content[done:], position - self.begin + done)
        except OSError:
            self.whole = False
        self.end = position + len(content)

    def clear(self, position: int) -> None:
        """Drop everything; the next bytes begin at this position."""
        self.begin = self.end = position
        self.whole = True
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes between two kept positions, in pieces."""
        while start < end:
            piece = os.pread(self._handle, min(_CHUNK, end - start), start - self.begin)
            if not piece:
                return
            yield piece
            start += len(piece)

    def close(self) -> None:
        """Close the file, which frees its disk space."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def _nameless(directory: Path | None) -> int:
    """Return the descriptor of an unnamed file in a directory, by default the host's directory for temporary files."""
    with tempfile.TemporaryFile(dir=directory) as stream:
        return os.dup(stream.fileno())
