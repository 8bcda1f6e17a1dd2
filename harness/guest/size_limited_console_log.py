"""The file with a guest's console output, of bounded size: a program in a guest must not fill the host's disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# A run of the core matrix logs less than 1 MiB for each guest.
_MOST_BYTES = 256 << 20


class ConsoleLog:
    """An append-only file; output beyond the limit, or for which the disk has no room, is left out of it.

    Verdicts do not depend on the file: they are read from the console itself.
    """

    def __init__(self, path: Path, limit: int = _MOST_BYTES) -> None:
        """Open the file; another guest of the row may have written to it. The limit, in bytes, is for this guest.

        Raises OSError.
        """
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._left = limit
        self._note = f"\n[pinpoint: the guest printed more than {limit} bytes; the log ends here]\n".encode()

    def write(self, content: bytes) -> None:
        """Append output."""
        if self._left <= 0:
            return
        kept = content[: self._left]
        self._left -= len(content)
        with contextlib.suppress(OSError):
            _write(self._handle, kept if self._left > 0 else kept + self._note)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
