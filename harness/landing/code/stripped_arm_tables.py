"""Finds the patch tables of a 32-bit ARM kernel that has no symbols for them, by the form of their rows.

An ELF recovered from Debian's zImage has text symbols only, because that kernel has no KALLSYMS_ALL. Rows of the jump
labels and of the ftrace sites hold addresses; those of the other two tables hold distances (asm/memory.h, __pv_stub();
asm/assembler.h, ALT_SMP(); 6.1).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.core.elf import Elf
from harness.landing.code.patch_tables import ARM_PHYSICAL, ARM_PROCESSORS, FTRACE, JUMPS
from harness.landing.code.recovered_kernel_text import recovered_text
from harness.landing.code.table_row_search import RowRange, RowSearch, longest_run_of_pointers

# Fewer consecutive rows are not a table.
_LEAST = 64
_POINTER = struct.Struct("<I")
_NOPS, _ALWAYS = frozenset({0xE320F000, 0xE1A00000}), 0xE
_PUSH_LR = 0xE52DE004
_JUMP_REACH = 1 << 25
# The fields of the constants __PV_BITS_31_24 and __PV_BITS_23_16, and of the MOVW and MOV of a kernel with LPAE.
_PHYSICAL_CONSTANTS = frozenset({0x481, 0x881, 0x000, 0x081})
_DATA_WITH_CONSTANT, _DATA_WITH_CONSTANT_MASK = 0x02000000, 0x0E000000
# PLD and PLDW.
_PRELOAD, _PRELOAD_MASK = 0xF510F000, 0xFD30F000
# .exit.text follows the text that is freed after boot, and kallsyms has no symbol of it. This is more than it has.
_EXIT_TEXT = 1 << 16


class ArmTableFinder:
    """The tables of a recovered 32-bit ARM kernel; it has no dynamic relocations (`relative`)."""

    def __init__(self, elf: Elf) -> None:
        self._texts, self._base, self._image = recovered_text(elf, _EXIT_TEXT)
        self.relative: Mapping[int, int] = {}

    def find_row_ranges_of_table(self, table: str) -> list[RowRange]:
        """The ranges of a table, named by the symbol that would be at its start; the longest run of fitting rows."""
        form, fits = {
            ARM_PHYSICAL: (struct.Struct("<i"), self._is_physical),
            ARM_PROCESSORS: (struct.Struct("<iI"), self._is_alternative),
            JUMPS: (struct.Struct("<III"), self._is_jump),
            FTRACE: (_POINTER, self._is_traced),
        }[table]
        found = RowSearch(self._image, self._base, self._texts[0][1], _LEAST).find(form, fits)
        return [max(found, key=lambda each: each.end - each.start)] if found else []

    def adjacent_pointers_including(self, address: int) -> list[int]:
        """The longest run of adjacent words that all point to text, where one is this address; often none."""
        begin = self._texts[0][1] - self._base
        return longest_run_of_pointers(self._image, _POINTER, begin, address, lambda each: self._code(each) != 0)

    def _word(self, place: int) -> int:
        """The word at a place in the image; 0 outside of it."""
        return int.from_bytes(self._image[place : place + 4], "little") if 0 <= place <= len(self._image) - 4 else 0

    def _is_physical(self, place: int, row: tuple[int, ...]) -> bool:
        word = self._code(place + row[0])
        return word & _DATA_WITH_CONSTANT_MASK == _DATA_WITH_CONSTANT and word & 0xFFF in _PHYSICAL_CONSTANTS

    def _is_alternative(self, place: int, row: tuple[int, ...]) -> bool:
        """True for a distance to text and an instruction that is always executed, or a prefetch."""
        if not self._code(place + row[0]):
            return False
        return row[1] >> 28 == _ALWAYS or row[1] & _PRELOAD_MASK == _PRELOAD

    def _is_jump(self, _: int, row: tuple[int, ...]) -> bool:
        code, target, key = row
        word = self._code(code)
        near = bool(self._code(target)) and abs(code - target) < _JUMP_REACH
        return near and bool(key) and (word in _NOPS or word >> 24 == 0xEA)

    def _is_traced(self, _: int, row: tuple[int, ...]) -> bool:
        return self._code(row[0]) >> 24 == 0xEB and self._code(row[0] - 4) == _PUSH_LR

    def _code(self, address: int) -> int:
        """The word of text at an address; 0 for any other address."""
        if address % 4 or not any(start <= address < end for start, end in self._texts):
            return 0
        return self._word(address - self._base)
