"""Reader of a 32-bit ARM zImage: the flat kernel inside it, and the facts of the zImage's own table.

The header has been at offset 0x24 since 2.x, the table that it points to since 4.15 (arch/arm/boot/compressed/head.S,
`_magic_table`, and vmlinux.lds.S, `.table`, 6.1). The flat kernel itself has no header.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from harness.core.errors import BuildError
from harness.images import embedded_kernel

# Magic, start, end, endianness flag, second magic, offset of the table.
_HEADER = struct.Struct("<6I")
_HEADER_AT = 0x24
_MAGIC, _LITTLE_ENDIAN, _SECOND_MAGIC = 0x016F2818, 0x04030201, 0x45454545
# Number of words, magic (ZSLK), offset of the unpacked size, size of .bss, TEXT_OFFSET.
_TABLE = struct.Struct("<5I")
_TABLE_MAGIC = 0x5A534C4B
_MAGICS = (embedded_kernel.XZ_MAGIC, embedded_kernel.GZIP_MAGIC)


class FlatKernel(NamedTuple):
    """The flat kernel of a zImage.

    `text_offset` is its distance from the start of the kernel's mapping (TEXT_OFFSET, arch/arm/Makefile), and
    `bss_size` the size of the zeroed data that follows it in memory.
    """

    content: bytes
    text_offset: int
    bss_size: int


def is_zimage(image: bytes) -> bool:
    """Return True for a little-endian zImage that has the table."""
    if len(image) < _HEADER_AT + _HEADER.size:
        return False
    magic, _, _, endianness, second, _ = _HEADER.unpack_from(image, _HEADER_AT)
    return (magic, endianness, second) == (_MAGIC, _LITTLE_ENDIAN, _SECOND_MAGIC)


def unpack(image: bytes, name: str) -> FlatKernel:
    """Return the kernel inside a zImage. Raises BuildError if it is damaged or compressed in another way.

    The table has the end of the compressed kernel, but not its start. The start is where a decompressor accepts the
    bytes up to that end and returns as many as the table has.
    """
    table_at = _HEADER.unpack_from(image, _HEADER_AT)[5]
    if table_at + _TABLE.size > len(image):
        raise BuildError("the zImage has no table", where=name, mend=embedded_kernel.MEND)
    _, magic, size_at, bss_size, text_offset = _TABLE.unpack_from(image, table_at)
    if magic != _TABLE_MAGIC or size_at + 4 > len(image):
        raise BuildError("the zImage's table is damaged", where=name, mend=embedded_kernel.MEND)
    size = int.from_bytes(image[size_at : size_at + 4], "little")
    for _, content in embedded_kernel.candidates(image[: size_at + 4], _MAGICS):
        if len(content) == size:
            return FlatKernel(content, text_offset, bss_size)
    raise BuildError("no compressed kernel was found in the zImage", where=name, mend=embedded_kernel.MEND)
