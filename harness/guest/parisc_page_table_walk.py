"""Walker of the kernel page tables of PA-RISC.

The kernel fills the TLB in software, so QEMU can translate only addresses that are in the TLB.
Source: arch/parisc/include/asm/{page,pgtable}.h, 6.1, with 4 KiB pages.
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

_PAGE = 0x1000
# A directory entry: flags in the low four bits, the table's physical address shifted by PxD_VALUE_SHIFT.
_FLAGS, _SHIFT, _VALID = 0xF, 8, 0x2
# _PAGE_PRESENT, bit 22 counted from the left.
_PRESENT = 0x200


class _Level(NamedTuple):
    """The tables of one level: the address bits that select an entry, and the struct format of an entry."""

    shift: int
    bits: int
    form: str

    def entry(self, table: int, address: int, read_table: ReadTable) -> int:
        """Return the entry of a virtual address in the table at a physical address, which may have several pages."""
        place = table + struct.calcsize(self.form) * (address >> self.shift & (1 << self.bits) - 1)
        return int(struct.unpack_from(self.form, read_table(place & ~(_PAGE - 1)), place % _PAGE)[0])


class TableShape(NamedTuple):
    """`linear` is __PAGE_OFFSET: physical memory is mapped linearly from there on. Modules are below (VMALLOC_START).

    `levels` begins with the page directory; the entries of the last level are pages.
    """

    linear: int
    levels: tuple[_Level, ...]


SHAPES: Mapping[AddressTranslation, TableShape] = MappingProxyType(
    {
        AddressTranslation.PARISC_TABLES: TableShape(0x10000000, (_Level(22, 10, ">I"), _Level(12, 10, ">I"))),
        # CONFIG_PGTABLE_LEVELS is 3, and PMD_TABLE_ORDER is 1: a table of the second level has two pages.
        AddressTranslation.PARISC64_TABLES: TableShape(
            0x40000000, (_Level(32, 10, ">I"), _Level(21, 11, ">I"), _Level(12, 9, ">Q"))
        ),
    }
)


@dataclass(frozen=True)
class PariscPageTables:
    """The tables below swapper_pg_dir, whose virtual address is `page_directory_address`."""

    shape: TableShape
    page_directory_address: int
    page_bytes: int = _PAGE

    def linear_address(self, address: int) -> int | None:
        """Return the physical address of an address of the linear mapping, None for others."""
        return address - self.shape.linear if address >= self.shape.linear else None

    def page_address(self, address: int, read_table: ReadTable) -> int:
        """Return the physical address of the page of a virtual address. Raises UnmappedError when it is not mapped."""
        table = self.page_directory_address - self.shape.linear
        *directories, pages = self.shape.levels
        for level in directories:
            entry = level.entry(table, address, read_table)
            if not entry & _VALID:
                raise UnmappedError(f"no page table for {address:#x}")
            table = (entry & ~_FLAGS) << _SHIFT
        page = pages.entry(table, address, read_table)
        if not page & _PRESENT:
            raise UnmappedError(f"no page at {address:#x}")
        return page & ~(_PAGE - 1)
