"""Finds the patch tables of a 64-bit MIPS kernel that has no symbols for them, by the form of their rows.

An ELF recovered from Debian's vmlinuz has text symbols only, because that kernel has no KALLSYMS_ALL. All rows hold
addresses (struct jump_entry, arch/mips/include/asm/jump_label.h; scripts/recordmcount.c; 6.1).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.core.elf import Elf
from harness.landing.code.patch_tables import FTRACE, JUMPS
from harness.landing.code.recovered_kernel_text import recovered_text
from harness.landing.code.table_row_search import RowRange, RowSearch, longest_run_of_pointers

# Fewer consecutive rows are not a table.
_LEAST = 64
# beq $0,$0,.+8; the opcodes of j and jal.
_STATIC_BRANCH, _J, _JAL = 0x10000001, 2, 3
# .exit.text follows data that is freed after boot, and kallsyms has no symbol of it.
_EXIT_TEXT = 1 << 20


class MipsTableFinder:
    """The tables of a recovered MIPS kernel; it has no dynamic relocations in the ELF file's form (`relative`)."""

    def __init__(self, elf: Elf) -> None:
        self._order = elf.struct_order
        self._pointer = struct.Struct(f"{self._order}Q")
        self._texts, self._base, self._image = recovered_text(elf, _EXIT_TEXT)
        self.relative: Mapping[int, int] = {}

    def find_row_ranges_of_table(self, table: str) -> list[RowRange]:
        """The ranges of a table, named by the symbol that would be at its start; the longest run of fitting rows."""
        form, fits = {
            JUMPS: (struct.Struct(f"{self._order}QQQ"), self._is_jump),
            FTRACE: (self._pointer, self._is_traced),
        }[table]
        found = RowSearch(self._image, self._base, self._texts[0][1], _LEAST).find(form, fits)
        return [max(found, key=lambda each: each.end - each.start)] if found else []

    def adjacent_pointers_including(self, address: int) -> list[int]:
        """The longest run of adjacent words that all point to text, where one is this address; often none."""
        begin = self._texts[0][1] - self._base
        return longest_run_of_pointers(self._image, self._pointer, begin, address, self._in_text)

    def _is_jump(self, _: int, row: tuple[int, ...]) -> bool:
        code, target, key = row
        word = self._code(code)
        return self._in_text(target) and bool(key) and (word == _STATIC_BRANCH or word >> 26 == _J)

    def _is_traced(self, _: int, row: tuple[int, ...]) -> bool:
        return self._code(row[0]) >> 26 == _JAL

    def _in_text(self, address: int) -> bool:
        return address % 4 == 0 and any(start <= address < end for start, end in self._texts)

    def _code(self, address: int) -> int:
        """The instruction at an address of text; 0 for any other address."""
        if not self._in_text(address) or address - self._base > len(self._image) - 4:
            return 0
        return int(struct.unpack_from(f"{self._order}I", self._image, address - self._base)[0])
