"""Walker of the kernel page tables of 32-bit parisc.

The kernel fills parisc's TLB in software, so QEMU can translate only addresses that are in the TLB.
Source: arch/parisc/include/asm/{page,pgtable}.h, 6.1, two levels of tables with 4 KiB pages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.errors import UnmappedError

# __PAGE_OFFSET: physical memory is mapped linearly from here on. Modules are below (VMALLOC_START).
_LINEAR = 0x10000000
_PAGE = 0x1000
# A directory entry: flags in the low four bits, the table's physical address shifted by PxD_VALUE_SHIFT.
_FLAGS, _SHIFT, _VALID = 0xF, 8, 0x2
# _PAGE_PRESENT, bit 22 counted from the left.
_PRESENT = 0x200


class _Piece(NamedTuple):
    physical: int
    size: int


@dataclass(frozen=True)
class PariscVirtualMemory:
    """Memory by virtual address.

    `page_directory_address` is the virtual address of swapper_pg_dir; `physical(address, size)` reads physical memory.
    """

    page_directory_address: int
    read_physical: Callable[[int, int], bytes]

    def read_span(self, span: tuple[int, int]) -> bytes:
        """Return the bytes of (address, size). Raises UnmappedError when one of its pages is not mapped."""
        address, size = span
        if address >= _LINEAR:
            return self.read_physical(address - _LINEAR, size)
        return b"".join(self.read_physical(*piece) for piece in self._pieces(address, address + size))

    def physical_address(self, address: int) -> int:
        """Return the physical address of a virtual one. Raises UnmappedError when its page is not mapped."""
        return address - _LINEAR if address >= _LINEAR else self._page(address, {}) + address % _PAGE

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
        """Return the physical address of the page of a virtual address; each table is read once per range."""
        entry = self._word(tables, self.page_directory_address - _LINEAR, address >> 22)
        if not entry & _VALID:
            raise UnmappedError(f"no page table for {address:#x}")
        page = self._word(tables, (entry & ~_FLAGS) << _SHIFT, address >> 12 & 0x3FF)
        if not page & _PRESENT:
            raise UnmappedError(f"no page at {address:#x}")
        return page & ~(_PAGE - 1)

    def _word(self, tables: dict[int, bytes], table: int, index: int) -> int:
        """Return one entry of a table of 1024 big-endian words."""
        if table not in tables:
            tables[table] = self.read_physical(table, _PAGE)
        return int(struct.unpack_from(">I", tables[table], 4 * index)[0])
