"""Reader of an s390 bzImage: the flat kernel inside it, with its dynamic relocations applied.

The bzImage is a flat copy of the decompressor. The compressed kernel follows the table .vmlinux.info (struct
vmlinux_info, arch/s390/boot/boot.h; arch/s390/kernel/vmlinux.lds.S, 6.1). The kernel is position independent: words
with addresses are 0 in the file until startup_kernel() relocates them (arch/s390/boot/startup.c, handle_relocs(), 6.1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from harness.core.errors import BuildError
from harness.images import embedded_kernel

# parmarea (arch/s390/boot/ipl_data.c and include/asm/setup.h, 6.1).
_MAGIC_AT, _MAGIC = 0x10008, b"S390EP\x00\x01"
# default_lma, entry, image_size, bss_size, bootdata_off and _size, bootdata_preserved_off and _size, dynsym_start,
# rela_dyn_start, rela_dyn_end, amode31_size.
_INFO = struct.Struct(">12Q")
_RELOCATION, _SYMBOL = struct.Struct(">QIIq"), struct.Struct(">IBBHQQ")
# R_390_GLOB_DAT, RELATIVE and 64: the kernel has no others, because it is linked with -pie and compiled with -fPIE.
_ADDRESSES = frozenset({10, 12, 22})
_MASK = (1 << 64) - 1


class RelocatedKernel(NamedTuple):
    """The flat kernel of a bzImage at slide 0: its bytes, link address, and the size of the zeroed data after it.

    `relocations_start` and `relocations_end` are the link addresses of its table of dynamic relocations (Elf64_Rela).
    """

    content: bytes
    base: int
    bss_size: int
    relocations_start: int
    relocations_end: int


def is_bzimage(image: bytes) -> bool:
    """Return True for the boot file of an s390 kernel."""
    return image[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def unpack(image: bytes, name: str) -> RelocatedKernel:
    """Return the kernel inside a bzImage. Raises BuildError if it is damaged, or not compressed with xz."""
    for start, content in embedded_kernel.candidates(image):
        if info := _table_before(image, start, len(content)):
            base, _, _, bss_size, *_, symbols, first, last, _ = info
            relocated = _relocated(content, base, symbols, range(first, last), name)
            return RelocatedKernel(relocated, base, bss_size, first, last)
    raise BuildError("no kernel compressed with xz was found in the bzImage", where=name, mend=embedded_kernel.MEND)


def _table_before(image: bytes, payload: int, size: int) -> tuple[int, ...] | None:
    """Return the words of .vmlinux.info before the compressed kernel: a table whose addresses fit a kernel of `size`.

    objcopy leaves out the padding at the end of the kernel, so the kernel can be shorter than image_size.
    """
    for place in range(payload // 8 * 8 - _INFO.size, 0, -8):
        found = _INFO.unpack_from(image, place)
        base, entry, in_memory, *_, symbols, first, last, _ = found
        places = (entry, symbols, first, last)
        if base and in_memory >= size and first < last and all(base <= each <= base + size for each in places):
            return found
    return None


def _relocated(content: bytes, base: int, symbols: int, table: range, name: str) -> bytes:
    """Return the kernel with the addresses that its dynamic relocations write at slide 0."""
    kernel = bytearray(content)
    for place, value, kind in _relocations(content, base, symbols, table):
        if kind not in _ADDRESSES or not 0 <= place - base <= len(kernel) - 8:
            raise BuildError(f"unknown relocation {kind} at {place:#x}", where=name, mend=embedded_kernel.MEND)
        struct.pack_into(">Q", kernel, place - base, value & _MASK)
    return bytes(kernel)


def _relocations(content: bytes, base: int, symbols: int, table: range) -> Iterator[tuple[int, int, int]]:
    """Yield the place, value and type of each relocation, computed as handle_relocs() does at offset 0."""
    rows = content[table.start - base : table.stop - base]
    for place, symbol, kind, addend in _RELOCATION.iter_unpack(
        rows[: len(rows) // _RELOCATION.size * _RELOCATION.size]
    ):
        value = addend
        if symbol:
            *_, section, address, _ = _SYMBOL.unpack_from(content, symbols - base + symbol * _SYMBOL.size)
            value += address if section else 0
        yield place, value, kind
