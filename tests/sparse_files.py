"""Files larger than any disk, for tests of limits; each is emptied when its test ends (conftest.py).

They need no disk space, but a `grep -r` in TMPDIR would use up the memory if it read one.
"""

from __future__ import annotations

import os
from pathlib import Path

_SIZE = 1 << 40
# Descriptors: a test may rename its file.
_made: list[int] = []


def make_sparse(path: Path) -> None:
    """Make a file of 1 TiB without content, or extend one."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _made.append(descriptor)
    os.ftruncate(descriptor, _SIZE)


def empty_all() -> None:
    """Empty and close all files that make_sparse() has made."""
    while _made:
        descriptor = _made.pop()
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
