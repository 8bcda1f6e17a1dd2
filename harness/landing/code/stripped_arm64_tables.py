"""Finds the patch tables of an arm64 kernel that has no symbols for them, by the form of their rows.

An ELF recovered from Debian's Image has text symbols only, because that kernel has no KALLSYMS_ALL. Each table is an
array of thousands of rows. Every row points into the image; a row of the jump labels points to a nop or a branch. Bytes
that fit by chance are recognized because their neighbors do not fit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from harness.core.elf import Elf
from harness.landing.code.patch_tables import ALTERNATIVES, FTRACE, JUMPS
from harness.landing.code.table_row_search import RowRange, RowSearch

EXCEPTIONS = "__start___ex_table"

# Fewer consecutive rows are not a table.
_LEAST = 256
_TEXTS = (("_stext", "_etext"), ("_sinittext", "_einittext"))

_NOP, _BRANCH = 0xD503201F, 0x05  # B has 000101 in its upper six bits.
_RELATIVE = 0x403  # R_AARCH64_RELATIVE
# Alternatives with a callback have this bit set in their feature, and no replacement (ARM64_CB_BIT,
# alternative-macros.h).
_CALL_BACK, _FEATURES = 0x8000, 128
_JUMP_REACH = 1 << 20
# The kinds of fixup that arm64 has: from EX_TYPE_NONE to EX_TYPE_LOAD_UNALIGNED_ZEROPAD (asm-extable.h, 6.1).
_LAST_FIXUP_KIND = 4


class Arm64TableFinder:
    """The tables of a recovered arm64 kernel.

    `relative` holds its dynamic relocations: the address that each writes to, and the link address that it writes.
    """

    def __init__(self, elf: Elf) -> None:
        self._base = (
            elf.symbols_named("_text")[0].address
            if elf.symbols_named("_text")
            else elf.sections_by_name[".head.text"].address
        )
        data = elf.sections_by_name[".data"]
        self._end = data.address + data.size
        self._image = elf.bytes_at(self._base, self._end - self._base)
        self._texts = [
            (elf.symbols_named(begin)[0].address, elf.symbols_named(end)[0].address) for begin, end in _TEXTS
        ]
        self._search = RowSearch(self._image, self._base, self._texts[0][1], _LEAST)
        self.relative: Mapping[int, int] = {
            place: value
            for rows in self._search.find(struct.Struct("<QQQ"), self._is_relative)
            for place, _, value in struct.iter_unpack("<QQQ", self._bytes(rows))
        }

    def find_row_ranges_of_table(self, table: str) -> list[RowRange]:
        """The ranges of a table, named by the symbol that would be at its start; for FTRACE, ranges of pointers."""
        if table == FTRACE:
            return self._longest_pointers()
        form, fits = {
            ALTERNATIVES: (struct.Struct("<iiHBB"), self._is_alternative),
            JUMPS: (struct.Struct("<iiq"), self._is_jump),
            EXCEPTIONS: (struct.Struct("<iihH"), self._is_exception),
        }[table]
        return self._search.find(form, fits)

    def _longest_pointers(self) -> list[RowRange]:
        """The longest run of words that are all relocated to text: the table of ftrace sites."""
        places = sorted(place for place, value in self.relative.items() if self._in_text(value))
        best = RowRange(0, 0)
        for rows in _runs(places):
            best = max(best, rows, key=lambda each: each.end - each.start)
        return [best] if best.end - best.start >= _LEAST * 8 else []

    def _is_relative(self, _: int, row: tuple[int, ...]) -> bool:
        return row[1] == _RELATIVE and self._in_image(row[0])

    def _is_alternative(self, place: int, row: tuple[int, ...]) -> bool:
        original, replacement, feature, size, new_size = row
        return (
            self._in_image(place + original)
            and self._in_image(place + 4 + replacement)
            and 0 < size == (size & ~3)
            and (new_size == size or (new_size == 0 and bool(feature & _CALL_BACK)))
            and feature & ~_CALL_BACK < _FEATURES
        )

    def _is_jump(self, place: int, row: tuple[int, ...]) -> bool:
        code, target = place + row[0], place + 4 + row[1]
        if not (self._in_text(code) and self._in_text(target) and abs(code - target) < _JUMP_REACH):
            return False
        word = int(struct.unpack_from("<I", self._image, code - self._base)[0])
        return word == _NOP or word >> 26 == _BRANCH

    def _is_exception(self, place: int, row: tuple[int, ...]) -> bool:
        """True for a row of struct exception_table_entry (arch/arm64/include/asm/extable.h, 6.1)."""
        instruction, fixup, kind, _ = row
        return self._in_text(place + instruction) and self._in_text(place + 4 + fixup) and 0 <= kind <= _LAST_FIXUP_KIND

    def adjacent_pointers_including(self, address: int) -> list[int]:
        """The adjacent words that are all relocated to text, where one is relocated to this address; often none.

        The table of ftrace sites is left out: it has the address of each traced function that begins with its site.
        """
        places = sorted(place for place, value in self.relative.items() if self._in_text(value))
        sites = self._longest_pointers()
        for rows in _runs(places):
            if rows in sites:
                continue
            values = [self.relative[place] for place in range(rows.start, rows.end, 8)]
            if address in values:
                return values
        return []

    def _in_image(self, address: int) -> bool:
        return address % 4 == 0 and self._base <= address < self._end

    def _in_text(self, address: int) -> bool:
        return address % 4 == 0 and any(start <= address < end for start, end in self._texts)

    def _bytes(self, rows: RowRange) -> bytes:
        return self._image[rows.start - self._base : rows.end - self._base]


def _runs(places: list[int]) -> Iterator[RowRange]:
    """Runs of adjacent words."""
    start = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index] != places[index - 1] + 8:
            yield RowRange(places[start], places[index - 1] + 8)
            start = index
