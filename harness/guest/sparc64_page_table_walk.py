"""Walker of the kernel page tables of 64-bit SPARC (sun4u).

The kernel fills the TLB in software, so QEMU can translate only addresses that are in the TLB.
Sources: KERN_PGTABLE_WALK(), arch/sparc/include/asm/tsb.h; arch/sparc/include/asm/pgtable_64.h and page_64.h, 6.1: four
levels of tables with 8 KiB pages, each entry a word of eight bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.core.errors import UnmappedError
from harness.guest.page_table_memory import ReadTable

_PAGE_SHIFT = 13
_INDEX_BITS = 10  # A page has 1024 entries.
# PGDIR_SHIFT, PUD_SHIFT, PMD_SHIFT and PAGE_SHIFT.
_PGD, _PUD, _PMD, _PTE = (_PAGE_SHIFT + level * _INDEX_BITS for level in (3, 2, 1, 0))
# _PAGE_VALID, _PAGE_PMD_HUGE (also that of a PUD), and _PAGE_PADDR_4U.
_VALID, _HUGE, _PHYSICAL = 1 << 63, 1 << 56, 0x7FFFFFFE000
# KERNBASE. Locked entries of the TLB map the kernel's image from there on (remap_kernel(), arch/sparc/mm/init_64.c).
# The firmware loads the image to the physical address of the same number (kern_base).
_IMAGE = 0x400000


@dataclass(frozen=True)
class Sparc64PageTables:
    """The tables below swapper_pg_dir, whose virtual address is `page_directory_address`.

    `image_end` is the virtual address at which the kernel's image ends.
    """

    page_directory_address: int
    image_end: int
    page_bytes: int = 1 << _PAGE_SHIFT

    def linear_address(self, address: int) -> int | None:
        """Return the physical address of an address in the kernel's image, None for others."""
        return address if _IMAGE <= address < self.image_end else None

    def page_address(self, address: int, read_table: ReadTable) -> int:
        """Return the physical address of the page of a virtual address. Raises UnmappedError when it is not mapped."""
        entry = self.page_directory_address
        for level in (_PGD, _PUD, _PMD):
            entry = _entry(read_table(entry), address >> level)
            if not entry:
                raise UnmappedError(f"no page table for {address:#x}")
            if entry & _HUGE:
                break
        else:
            level = _PTE
            entry = _entry(read_table(entry), address >> _PTE)
        if not entry & _VALID:
            raise UnmappedError(f"no page at {address:#x}")
        inside = (1 << level) - 1
        return entry & _PHYSICAL & ~inside | address & inside & ~((1 << _PAGE_SHIFT) - 1)


def _entry(table: bytes, index: int) -> int:
    """Return one entry of a table of 1024 big-endian words of eight bytes."""
    return int(struct.unpack_from(">Q", table, 8 * (index & ((1 << _INDEX_BITS) - 1)))[0])
