"""What a console printed and memory no longer keeps, in a file without a name that goes with this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# More than this since one fence is no output of a kernel that anybody reads; it must not fill the disk.
_MOST_BYTES = 1 << 30
_CHUNK = 1 << 20


class Spilled:
    """One stretch of a stream: the bytes from `begin` up to `end`, positions from the stream's beginning.

    `whole` is false once something that was to be kept could not be: the disk was full, or it was too much.
    """

    def __init__(self, directory: Path | None, limit: int = _MOST_BYTES) -> None:
        self._directory = directory
        self._limit = limit
        self._handle = -1
        self.begin = self.end = 0
        self.whole = True

    def append(self, position: int, content: bytes) -> None:
        """Keep bytes that begin at a position; those of an earlier stretch go if they do not end there."""
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
        """Forget everything; the next stretch begins at this position."""
        self.begin = self.end = position
        self.whole = True
        if self._handle >= 0:
            os.ftruncate(self._handle, 0)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes between two positions inside the stretch, in pieces."""
        while start < end:
            piece = os.pread(self._handle, min(_CHUNK, end - start), start - self.begin)
            if not piece:
                return
            yield piece
            start += len(piece)

    def close(self) -> None:
        """Give the disk back."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def _nameless(directory: Path | None) -> int:
    """A file that no name leads to, in a directory, or where the host keeps temporary files."""
    with tempfile.TemporaryFile(dir=directory) as stream:
        return os.dup(stream.fileno())
