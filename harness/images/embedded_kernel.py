"""Finds the compressed kernel inside a boot file that does not record where it begins.

The magic number of a compression can also be a constant of the decompressor, so each place is tried.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

XZ_MAGIC, GZIP_MAGIC = b"\xfd7zXZ\0", b"\x1f\x8b\x08"
MEND = "see kernel.package in the recipe"


class Candidate(NamedTuple):
    """The decompressed bytes from `start` on; they may be only a part of the kernel, or something else."""

    start: int
    content: bytes


def candidates(image: bytes, magics: Sequence[bytes] = (XZ_MAGIC,)) -> Iterator[Candidate]:
    """Yield each place with one of these magic numbers where the decompressor accepts the bytes up to the end."""
    for magic in magics:
        expand, errors = _DECOMPRESSORS[magic]
        for match in re.finditer(re.escape(magic), image):
            try:
                content = expand(image[match.start() :])
            except errors:
                continue
            if content:
                yield Candidate(match.start(), content)


def _xz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(payload)


def _gzip(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload)


_DECOMPRESSORS: dict[bytes, tuple[Callable[[bytes], bytes], type[Exception]]] = {
    XZ_MAGIC: (_xz, lzma.LZMAError),
    GZIP_MAGIC: (_gzip, zlib.error),
}
