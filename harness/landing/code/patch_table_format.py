"""The format of a table by which a kernel patches its own text, and the set of tables of one machine."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from harness.landing.code.loader_filled_section import LoaderFilledSection

CodeReader = Callable[[], bytes]
PatchSizeFunction = Callable[[Sequence[int], CodeReader], int]
SkipFunction = Callable[[bytes], int]


class PatchTableFormat(NamedTuple):
    """The format of one table.

    `begin_symbol` and `end_symbol` are the symbols around it in a vmlinux, `section` is its section in a module,
    `row_format` the format of a row for struct.Struct. A row begins with the patched place: its distance from the row,
    or its address if `holds_addresses` is set. `patch_size` computes the number of patched bytes from the row and from
    six bytes of code at the place. `other_row_formats` are the formats of other kernel versions. The right format
    divides the table's length, and all its rows are `is_sound_row`. `place_at` is the offset of the patched place in a
    row that begins with other fields, which `row_format` skips, and `end_at` the offset of its end; both are distances
    from the start of the row. `skip` computes the distance from the place to the patched code if a pointer is before
    it, from the code at the place; the table is of that kind if it returns no 0 for any row. `W` in a format is a word
    of the kernel.
    """

    begin_symbol: str
    end_symbol: str
    section: str
    row_format: str
    patch_size: PatchSizeFunction
    holds_addresses: bool = False
    other_row_formats: tuple[str, ...] = ()
    is_sound_row: Callable[[Sequence[int]], bool] = lambda _: True
    place_at: int = 0
    end_at: int = 0
    skip: SkipFunction | None = None

    def fitting_row_format(self, order: str, word: str, fits: Callable[[struct.Struct], bool]) -> struct.Struct:
        """The row format that fits this kernel's table.

        `order` is the byte order character of struct, `word` the character of the kernel's word, `I` or `Q`.
        """
        rows = (row.replace("W", word) for row in (self.row_format, *self.other_row_formats))
        forms = [struct.Struct(f"{order}{row}") for row in rows]
        return next((form for form in forms if len(forms) > 1 and fits(form)), forms[0])


class PatchTables(NamedTuple):
    """All tables that patch text on one machine.

    The first of `tables` is one that every kernel of the machine has; without tables, the kernel patches no text.
    `loader_filled_sections` are the sections that a module's loader fills, by name. `relocation_distance_bias` is what
    the relocation of a distance takes off it; `is_patched_whole` selects symbols that are patched whole;
    `written_ranges` are the symbols at which data in text that the kernel writes at any time begins and ends;
    `table_families` are tables of which there is one for each of many names, which `begin` and `end` lack at their end.
    """

    tables: tuple[PatchTableFormat, ...]
    table_families: tuple[PatchTableFormat, ...] = ()
    relocation_distance_bias: int = 0
    is_patched_whole: Callable[[str], bool] = lambda _: False
    written_ranges: tuple[tuple[str, str], ...] = ()
    loader_filled_sections: Mapping[str, LoaderFilledSection] = MappingProxyType({})
