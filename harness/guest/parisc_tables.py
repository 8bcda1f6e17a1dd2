"""32-bit parisc's kernel page tables, walked by us: its TLB is filled by software, so QEMU knows only what is in it.

Source: arch/parisc/include/asm/{page,pgtable}.h, 6.1, two levels of tables with 4 KiB pages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.errors import GuestError

# __PAGE_OFFSET: from here on physical memory is mapped as it comes. Modules are below (VMALLOC_START).
_LINEAR = 0x10000000
_PAGE = 0x1000
# An entry of the directory: flags in the low four bits, the table's physical address shifted by PxD_VALUE_SHIFT.
_FLAGS, _SHIFT, _VALID = 0xF, 8, 0x2
# _PAGE_PRESENT, bit 22 counted from the left.
_PRESENT = 0x200


class _Piece(NamedTuple):
    physical: int
    size: int


@dataclass(frozen=True)
class PariscTables:
    """Memory by virtual address: `directory` is swapper_pg_dir's, `physical(address, size)` reads physical memory."""

    directory: int
    physical: Callable[[int, int], bytes]

    def read(self, span: tuple[int, int]) -> bytes:
        """The bytes of (address, size). Raises GuestError when a page of it is not mapped."""
        address, size = span
        if address >= _LINEAR:
            return self.physical(address - _LINEAR, size)
        return b"".join(self.physical(*piece) for piece in self._pieces(address, address + size))

    def _pieces(self, start: int, end: int) -> list[_Piece]:
        """Physical pieces of a virtual range, pages that follow each other joined."""
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
        """The physical address of the page behind a virtual address; tables read once a range."""
        entry = self._word(tables, self.directory - _LINEAR, address >> 22)
        if not entry & _VALID:
            raise GuestError(f"no page table for {address:#x}")
        page = self._word(tables, (entry & ~_FLAGS) << _SHIFT, address >> 12 & 0x3FF)
        if not page & _PRESENT:
            raise GuestError(f"no page at {address:#x}")
        return page & ~(_PAGE - 1)

    def _word(self, tables: dict[int, bytes], table: int, index: int) -> int:
        """One entry of a table of a thousand and twenty-four big-endian words."""
        if table not in tables:
            tables[table] = self.physical(table, _PAGE)
        return int(struct.unpack_from(">I", tables[table], 4 * index)[0])
