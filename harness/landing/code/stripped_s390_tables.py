"""Finds the patch tables of an s390 kernel that has no symbols for them, by the form of their rows.

An ELF recovered from Debian's bzImage has text symbols only, because that kernel has no KALLSYMS_ALL. Its dynamic
relocations have a section, and are applied to its bytes (images/s390_bzimage.py).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.core.elf import Elf
from harness.landing.code.patch_tables import ALTERNATIVES, FTRACE, JUMPS
from harness.landing.code.recovered_kernel_text import recovered_text
from harness.landing.code.table_row_search import RowRange, RowSearch

# Fewer consecutive rows are not a table.
_LEAST = 64
# .exit.text follows the text that is freed after boot, and kallsyms has no symbol of it. This is more than it has.
_EXIT_TEXT = 1 << 16
_RELATIONS, _RELATION = ".rela.dyn", struct.Struct(">QQq")
_WORD = 8
# BRCL with mask 0 or 15 (arch/s390/include/asm/jump_label.h, 6.1).
_BRANCHES = frozenset({0xC004, 0xC0F4})
_FTRACE_NOP = bytes.fromhex("c00400000000")
# Bits of the facility list (stfle_fac_list[16], arch/s390/boot/startup.c, 6.1).
_FACILITIES = 1024


class S390TableFinder:
    """The tables of a recovered s390 kernel.

    `relative` holds its dynamic relocations: the address that each writes to, and the link address that it writes.
    """

    def __init__(self, elf: Elf) -> None:
        self._texts, self._base, self._image = recovered_text(elf, _EXIT_TEXT)
        self._end = self._base + len(self._image)
        table = elf.sections_by_name[_RELATIONS]
        rows = _RELATION.iter_unpack(elf.section_bytes(_RELATIONS, 0, table.size // _RELATION.size * _RELATION.size))
        places = [place for place, _, _ in rows if self._base <= place <= self._end - _WORD]
        self.relative: Mapping[int, int] = {place: self._word(place) for place in places}

    def find_row_ranges_of_table(self, table: str) -> list[RowRange]:
        """The range of a table, named by the symbol that would be at its start; the longest run of fitting rows."""
        form, fits = {
            ALTERNATIVES: (struct.Struct(">iiHB"), self._is_alternative),
            JUMPS: (struct.Struct(">iiq"), self._is_jump),
            FTRACE: (struct.Struct(">Q"), self._is_traced),
        }[table]
        search = RowSearch(self._image, self._base, self._texts[0][1], _LEAST)
        found = search.find(form, fits)
        return [max(found, key=lambda each: each.end - each.start)] if found else []

    def adjacent_pointers_including(self, address: int) -> list[int]:
        """The longest run of adjacent words that are all relocated to text, where one is this address; often none.

        The table of ftrace sites is left out.
        """
        found = list[int]()
        traced = self.find_row_ranges_of_table(FTRACE)
        for place in (place for place, value in self.relative.items() if value == address):
            if any(rows.start <= place < rows.end for rows in traced):
                continue
            start = end = place
            while self._in_text(self.relative.get(start - _WORD, 0)):
                start -= _WORD
            while self._in_text(self.relative.get(end, 0)):
                end += _WORD
            found = max(found, [self.relative[each] for each in range(start, end, _WORD)], key=len)
        return found

    def _is_alternative(self, place: int, row: tuple[int, ...]) -> bool:
        """True for a distance to text, one to bytes after the table, a facility, and a number of bytes."""
        replacement = place + 4 + row[1]
        sized = row[3] > 0 == row[3] % 2 and row[2] < _FACILITIES
        return sized and self._in_text(place + row[0]) and place < replacement < self._end

    def _is_jump(self, place: int, row: tuple[int, ...]) -> bool:
        """True for a BRCL in text to the target in the row (struct jump_entry, include/linux/jump_label.h, 6.1)."""
        site, target = place + row[0], place + 4 + row[1]
        if not self._in_text(site):
            return False
        opcode, distance = struct.unpack_from(">Hi", self._image, site - self._base)
        return opcode in _BRANCHES and site + 2 * distance == target

    def _is_traced(self, place: int, row: tuple[int, ...]) -> bool:
        at = row[0] - self._base
        return place in self.relative and self._in_text(row[0]) and self._image[at : at + 6] == _FTRACE_NOP

    def _in_text(self, address: int) -> bool:
        return address % 2 == 0 and any(start <= address < end for start, end in self._texts)

    def _word(self, address: int) -> int:
        return int.from_bytes(self._image[address - self._base : address - self._base + _WORD])
