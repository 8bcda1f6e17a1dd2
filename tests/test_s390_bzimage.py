"""The kernel in an s390 bzImage is found by the table before it and relocated, and damage is one line."""

from __future__ import annotations

import lzma
import random
import struct

import pytest

from harness.core.errors import BuildError
from harness.images import s390_bzimage

BASE, BSS = 0x100000, 0xAD000
RELATIVE, ADDRESS, GLOBAL_DATA, PLT = 12, 22, 10, 20
SYMBOLS, TABLE = 0x1000, 0x1100
ROWS = [
    # Place, symbol, type, addend; what the word becomes.
    ((BASE + 0x20, 0, RELATIVE, BASE + 0x444), BASE + 0x444),
    ((BASE + 0x28, 1, ADDRESS, 8), BASE + 0x508),
    ((BASE + 0x30, 2, GLOBAL_DATA, 0), 0),
]


def kernel(rows: list[tuple[int, int, int, int]]) -> bytes:
    content = bytearray(random.Random(3).randbytes(0x2000))
    content[0x30:0x38] = bytes(8)
    symbols = [(0, 0, 0, 0, 0, 0), (1, 0, 0, 5, BASE + 0x500, 0), (1, 0, 0, 0, 0x777, 0)]
    for index, symbol in enumerate(symbols):
        struct.pack_into(">IBBHQQ", content, SYMBOLS + 24 * index, *symbol)
    for index, (place, symbol, kind, addend) in enumerate(rows):
        struct.pack_into(">QIIq", content, TABLE + 24 * index, place, symbol, kind, addend)
    return bytes(content)


def bzimage(content: bytes, rows: int, *, payload: bytes = b"", base: int = BASE) -> bytes:
    front = bytearray(0x11000)
    front[0x10008:0x10010] = b"S390EP\x00\x01"
    # The decompressor has the first bytes of a stream among its constants.
    front[0x10100:0x10106] = b"\xfd7zXZ\0"
    # image_size is the kernel's size in memory, with padding that the file lacks.
    info = (base, base, len(content) + 0x200, BSS, base, 8, base, 8, base + SYMBOLS, base + TABLE)
    struct.pack_into(">12Q", front, 0x10F00, *info, base + TABLE + 24 * rows, 0x3000)
    return bytes(front) + (payload or lzma.compress(content, check=lzma.CHECK_CRC32)) + bytes(64)


def test_the_kernel_is_unpacked_and_relocated() -> None:
    content = kernel([row for row, _ in ROWS])
    image = bzimage(content, len(ROWS))
    assert s390_bzimage.is_bzimage(image)
    found = s390_bzimage.unpack(image, "vmlinuz")
    assert found[1:] == (BASE, BSS, BASE + TABLE, BASE + TABLE + 24 * len(ROWS))
    assert struct.unpack_from(">3Q", found.content, 0x20) == tuple(value for _, value in ROWS)
    assert found.content[0x38:] == content[0x38:]
    assert found.content[:0x20] == content[:0x20]


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (bzimage(kernel([]), 0, payload=b"nothing"), "no kernel compressed with xz"),
        (bzimage(kernel([]), 1, base=0), "no kernel compressed with xz"),
        (bzimage(kernel([(BASE, 0, PLT, 0)]), 1), "unknown relocation 20"),
        (bzimage(kernel([(BASE + 0x1FFC, 0, RELATIVE, 0)]), 1), "unknown relocation 12 at 0x101ffc"),
    ],
    ids=["no stream", "no table", "type", "outside"],
)
def test_a_damaged_bzimage_is_one_line(image: bytes, reported: str) -> None:
    with pytest.raises(BuildError, match=reported) as caught:
        s390_bzimage.unpack(image, "vmlinuz")
    assert "\n" not in str(caught.value)


def test_other_files_are_no_bzimage() -> None:
    assert not s390_bzimage.is_bzimage(b"")
    assert not s390_bzimage.is_bzimage(bytes(0x20000))
