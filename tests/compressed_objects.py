"""Object files that tests have as text, because a host without guests of their architecture has no assembler for it."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

from harness.core.elf import Elf


def read_object(text: str, directory: Path) -> Elf:
    """Write the object file that a text has, compressed by zlib and encoded in base64, to a directory, and read it."""
    path = directory / "module.o"
    path.write_bytes(zlib.decompress(base64.b64decode(text)))
    return Elf.read(path)
