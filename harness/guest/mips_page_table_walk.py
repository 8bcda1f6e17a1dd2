"""Walker of the kernel page tables of MIPS, and of SuperH, whose tables have the same form.

The kernel fills the TLB in software, so QEMU can translate only addresses that are in the TLB, and those of segments
that are not mapped. Sources: arch/mips/include/asm/pgtable-32.h, pgtable-64.h and pgtable-bits.h, 6.1, with 4 KiB pages
and a CPU of release 2 or later; arch/sh/include/asm/pgtable-2level.h and pgtable_32.h, with 4 KiB pages.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from harness.core.architecture import AddressTranslation
from harness.core.errors import UnmappedError
from harness.guest.page_table_memory import ReadTable

_PAGE_SHIFT = 12
_PAGE = 1 << _PAGE_SHIFT


class _Segment(NamedTuple):
    """Virtual addresses that the CPU translates without its TLB; `mask` has the bits that are the physical address."""

    start: int
    end: int
    mask: int


class TableShape(NamedTuple):
    """The tables of a kernel.

    `levels` are PGDIR_SHIFT, PMD_SHIFT and PAGE_SHIFT, each with the number of entries of a table, which may have
    several pages; `entry` is the struct format of an entry. In an entry of the last level, `valid` is _PAGE_VALID and
    `frame_shift` is _PFN_SHIFT.
    """

    segments: tuple[_Segment, ...]
    levels: tuple[tuple[int, int], ...]
    entry: str
    valid: int
    frame_shift: int

    def unmapped(self, address: int) -> int | None:
        """Return the physical address of an address that the CPU does not look up in its TLB; None for any other."""
        return next((address & each.mask for each in self.segments if each.start <= address < each.end), None)


SHAPES: Mapping[AddressTranslation, TableShape] = MappingProxyType(
    {
        AddressTranslation.MIPS32_TABLES: TableShape(
            # KSEG0 and KSEG1: the lower 512 MiB of physical memory.
            segments=(_Segment(0x80000000, 0xC0000000, 0x1FFFFFFF),),
            levels=((22, 1024), (12, 1024)),
            entry=">I",
            valid=1 << 7,
            frame_shift=12,
        ),
        AddressTranslation.MIPS64_TABLES: TableShape(
            # CKSEG0 and CKSEG1: the lower 512 MiB again. XKPHYS: all physical memory, by 59 bits.
            segments=(
                _Segment(0xFFFFFFFF80000000, 0xFFFFFFFFC0000000, 0x1FFFFFFF),
                _Segment(0x8000000000000000, 0xC000000000000000, (1 << 59) - 1),
            ),
            levels=((30, 1024), (21, 512), (12, 512)),
            entry="<Q",
            valid=1 << 9,  # with huge pages
            frame_shift=14,
        ),
        AddressTranslation.SUPERH_TABLES: TableShape(
            # P1 and P2: all 512 MiB of physical memory.
            segments=(_Segment(0x80000000, 0xC0000000, 0x1FFFFFFF),),
            levels=((22, 1024), (12, 1024)),
            entry="<I",
            valid=1 << 8,  # _PAGE_PRESENT
            frame_shift=12,
        ),
    }
)


@dataclass(frozen=True)
class MipsPageTables:
    """The tables below swapper_pg_dir, whose virtual address is `page_directory_address`."""

    shape: TableShape
    page_directory_address: int
    page_bytes: int = _PAGE

    def linear_address(self, address: int) -> int | None:
        """Return the physical address of an address that the CPU does not look up in its TLB; None for any other."""
        return self.shape.unmapped(address)

    def page_address(self, address: int, read_table: ReadTable) -> int:
        """Return the physical address of the page of a virtual address. Raises UnmappedError when it is not mapped.

        An entry of an upper level is the virtual address of a table; where nothing is mapped, that of an empty one.
        """
        entry, size = self.page_directory_address, struct.calcsize(self.shape.entry)
        for shift, count in self.shape.levels:
            table = self.shape.unmapped(entry)
            if table is None:
                raise UnmappedError(f"no page table for {address:#x}")
            place = table + size * (address >> shift & count - 1)
            (entry,) = struct.unpack_from(self.shape.entry, read_table(place & ~(_PAGE - 1)), place % _PAGE)
        if not entry & self.shape.valid:
            raise UnmappedError(f"no page at {address:#x}")
        return int(entry) >> self.shape.frame_shift << _PAGE_SHIFT
