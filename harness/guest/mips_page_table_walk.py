"""Walker of the kernel page tables of 64-bit MIPS.

The kernel fills the TLB in software, so QEMU can translate only addresses that are in the TLB, and those of segments
that are not mapped. Source: arch/mips/include/asm/pgtable-64.h and pgtable-bits.h, 6.1, three levels of tables with
4 KiB pages, on a CPU of release 2 or later with huge pages (_PFN_SHIFT is 14).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.errors import UnmappedError

_PAGE = 0x1000
# CKSEG0 and CKSEG1: the lower 512 MiB of physical memory. XKPHYS: all of it, by 59 bits.
_COMPATIBLE, _COMPATIBLE_END, _COMPATIBLE_MASK = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000, 0x1FFFFFFF
_PHYSICAL, _PHYSICAL_END, _PHYSICAL_MASK = 0x8000000000000000, 0xC000000000000000, (1 << 59) - 1
# PGDIR_SHIFT, PMD_SHIFT and PAGE_SHIFT, with the number of entries of a table.
_LEVELS = ((30, 1024), (21, 512), (12, 512))
_VALID, _FRAME_SHIFT, _PAGE_SHIFT = 1 << 9, 14, 12


class _Piece(NamedTuple):
    physical: int
    size: int


@dataclass(frozen=True)
class Mips64VirtualMemory:
    """Memory by virtual address.

    `page_directory_address` is the virtual address of swapper_pg_dir; `physical(address, size)` reads physical memory.
    """

    page_directory_address: int
    read_physical: Callable[[int, int], bytes]

    def read_span(self, span: tuple[int, int]) -> bytes:
        """Return the bytes of (address, size). Raises UnmappedError when one of its pages is not mapped."""
        address, size = span
        unmapped = _unmapped(address)
        if unmapped is not None:
            return self.read_physical(unmapped, size)
        return b"".join(self.read_physical(*piece) for piece in self._pieces(address, address + size))

    def physical_address(self, address: int) -> int:
        """Return the physical address of a virtual one. Raises UnmappedError when its page is not mapped."""
        unmapped = _unmapped(address)
        return self._page(address, {}) + address % _PAGE if unmapped is None else unmapped

    def _pieces(self, start: int, end: int) -> list[_Piece]:
        """Return the physical pieces of a virtual range; adjacent physical pages are joined."""
        pieces: list[_Piece] = []
        tables: dict[int, bytes] = {}
        while start < end:
            size = min(end, (start | _PAGE - 1) + 1) - start
            physical = self._page(start, tables) + start % _PAGE
            if pieces and sum(pieces[-1]) == physical:
                pieces[-1] = _Piece(pieces[-1].physical, pieces[-1].size + size)
            else:
                pieces.append(_Piece(physical, size))
            start += size
        return pieces

    def _page(self, address: int, tables: dict[int, bytes]) -> int:
        """Return the physical address of the page of a virtual address; each table is read once per range.

        An entry of an upper level is the virtual address of a table; where nothing is mapped, that of an empty one.
        """
        entry = self.page_directory_address
        for shift, count in _LEVELS:
            table = _unmapped(entry)
            if table is None:
                raise UnmappedError(f"no page table for {address:#x}")
            if table not in tables:
                tables[table] = self.read_physical(table, 8 * count)
            (entry,) = struct.unpack_from("<Q", tables[table], 8 * (address >> shift & count - 1))
        if not entry & _VALID:
            raise UnmappedError(f"no page at {address:#x}")
        return int(entry) >> _FRAME_SHIFT << _PAGE_SHIFT


def _unmapped(address: int) -> int | None:
    """Return the physical address of an address that the CPU does not look up in its TLB; None for any other."""
    if _COMPATIBLE <= address < _COMPATIBLE_END:
        return address & _COMPATIBLE_MASK
    return address & _PHYSICAL_MASK if _PHYSICAL <= address < _PHYSICAL_END else None
