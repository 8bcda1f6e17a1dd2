"""The kernel in a 32-bit ARM zImage is found by the zImage's own table, and damage is one line."""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest

from harness.core.errors import BuildError
from harness.images import arm_zimage

KERNEL = bytes(range(256)) * 16
TABLE_AT, TEXT_OFFSET, BSS = 0x200, 0x208000, 0x5E000


def zimage(payload: bytes, *, size: int = len(KERNEL), table_magic: int = 0x5A534C4B) -> bytes:
    front = bytearray(0x300)
    struct.pack_into("<6I", front, 0x24, 0x016F2818, 0, 0, 0x04030201, 0x45454545, TABLE_AT)
    # The decompressor has the first bytes of a stream among its constants.
    front[0x100:0x106] = b"\xfd7zXZ\0"
    body = bytes(front) + payload
    struct.pack_into("<5I", front, TABLE_AT, 6, table_magic, len(body), BSS, TEXT_OFFSET)
    return bytes(front) + payload + size.to_bytes(4, "little") + bytes(64)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress])
def test_the_kernel_is_unpacked(compress: object) -> None:
    assert callable(compress)
    image = zimage(compress(KERNEL))
    assert arm_zimage.is_zimage(image)
    assert arm_zimage.unpack(image, "vmlinuz") == arm_zimage.FlatKernel(KERNEL, TEXT_OFFSET, BSS)


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (zimage(lzma.compress(KERNEL), size=7), "no compressed kernel"),
        (zimage(b"nothing"), "no compressed kernel"),
        (zimage(lzma.compress(KERNEL), table_magic=0), "table is damaged"),
        (zimage(lzma.compress(KERNEL))[:0x204], "no table"),
    ],
)
def test_a_damaged_zimage_is_one_line(image: bytes, reported: str) -> None:
    with pytest.raises(BuildError, match=reported) as caught:
        arm_zimage.unpack(image, "vmlinuz")
    assert "\n" not in str(caught.value)


def test_other_files_are_no_zimage() -> None:
    assert not arm_zimage.is_zimage(b"")
    assert not arm_zimage.is_zimage(bytes(0x400))
