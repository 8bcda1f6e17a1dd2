"""Walker of the kernel page tables of 64-bit MIPS.

The kernel fills the TLB in software, so QEMU can translate only addresses that are in the TLB, and those of segments
that are not mapped. Source: arch/mips/include/asm/pgtable-64.h and pgtable-bits.h, 6.1, three levels of tables with
4 KiB pages, on a CPU of release 2 or later with huge pages (_PFN_SHIFT is 14).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.core.errors import UnmappedError
from harness.guest.page_table_memory import ReadTable

_PAGE = 0x1000
# CKSEG0 and CKSEG1: the lower 512 MiB of physical memory. XKPHYS: all of it, by 59 bits.
_COMPATIBLE, _COMPATIBLE_END, _COMPATIBLE_MASK = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000, 0x1FFFFFFF
_PHYSICAL, _PHYSICAL_END, _PHYSICAL_MASK = 0x8000000000000000, 0xC000000000000000, (1 << 59) - 1
# PGDIR_SHIFT, PMD_SHIFT and PAGE_SHIFT, with the number of entries of a table. The first one has two pages.
_LEVELS = ((30, 1024), (21, 512), (12, 512))
_ENTRY = 8
_VALID, _FRAME_SHIFT, _PAGE_SHIFT = 1 << 9, 14, 12


@dataclass(frozen=True)
class Mips64PageTables:
    """The tables below swapper_pg_dir, whose virtual address is `page_directory_address`."""

    page_directory_address: int
    page_bytes: int = _PAGE

    def linear_address(self, address: int) -> int | None:
        """Return the physical address of an address that the CPU does not look up in its TLB; None for any other."""
        return _unmapped(address)

    def page_address(self, address: int, read_table: ReadTable) -> int:
        """Return the physical address of the page of a virtual address. Raises UnmappedError when it is not mapped.

        An entry of an upper level is the virtual address of a table; where nothing is mapped, that of an empty one.
        """
        entry = self.page_directory_address
        for shift, count in _LEVELS:
            table = _unmapped(entry)
            if table is None:
                raise UnmappedError(f"no page table for {address:#x}")
            place = table + _ENTRY * (address >> shift & count - 1)
            (entry,) = struct.unpack_from("<Q", read_table(place & ~(_PAGE - 1)), place % _PAGE)
        if not entry & _VALID:
            raise UnmappedError(f"no page at {address:#x}")
        return int(entry) >> _FRAME_SHIFT << _PAGE_SHIFT


def _unmapped(address: int) -> int | None:
    if _COMPATIBLE <= address < _COMPATIBLE_END:
        return address & _COMPATIBLE_MASK
    return address & _PHYSICAL_MASK if _PHYSICAL <= address < _PHYSICAL_END else None
