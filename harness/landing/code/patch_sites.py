"""Finds the bytes of its own text that a kernel or a module patches at run time, from the tables that it patches by.

On each of the four core VMs all bytes from `_stext` to `_etext` of a booted kernel were compared with its ELF file. On
Debian's x86_64 480,000 of 14.7 million bytes differ, on its arm64 181,000 of 13.6 million. Every byte that differs is
named by a table, by a relocation, or by a kprobe that the kernel lists.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from harness.core.elf import BROKEN_FILE_ERRORS, Elf
from harness.core.elf_symbols_and_relocations import Relocation, subtracts_address
from harness.core.errors import PinpointError
from harness.landing.code.patch_table_format import PatchTableFormat, PatchTables
from harness.landing.code.patch_tables import FTRACE, patch_tables_of
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.code.table_row_search import RowRange

# The place name for a linked file, which has a single place with link addresses; a module has one for each section.
LINKED = ""
_LONGEST = 6  # The number of code bytes that determine the size of a patch.
_LONGEST_SKIPPED = 20  # The number of code bytes that determine what is skipped before a patch.
_SECOND = 4  # The offset in a row of its second relocation, which is for the replacement of an alternative.


class Range(NamedTuple):
    """The bytes from `start` up to, but not including, `end`."""

    start: int
    end: int


class PatchSites:
    """The bytes of one ELF file that may differ in memory; `known` is false if the file lacks the patch tables."""

    def __init__(self, found: Mapping[str, Sequence[Range]], *, known: bool) -> None:
        self.known = known
        self._ranges = {place: merge_ranges(ranges) for place, ranges in found.items()}
        self._starts = {place: [each.start for each in ranges] for place, ranges in self._ranges.items()}

    def patched_offsets(self, place: str, start: int, size: int) -> set[int]:
        """Which of `size` bytes from `start` on are patched, as offsets from `start`.

        `place` is LINKED and `start` a link address, or `place` is a module's section and `start` an offset in it.
        """
        found: set[int] = set()
        ranges = self._ranges.get(place, [])
        for each in ranges[max(0, bisect_right(self._starts.get(place, []), start) - 1) :]:
            if each.start >= start + size:
                break
            found.update(range(max(each.start, start) - start, min(each.end, start + size) - start))
        return found

    def with_ftrace_sites(self, ftrace: FtraceSites) -> PatchSites:
        """These sites and those of ftrace."""
        found = {place: [*ranges] for place, ranges in self._ranges.items()}
        for place, ranges in ftrace.ranges_by_place.items():
            found[place] = [*found.get(place, []), *ranges]
        return PatchSites(found, known=self.known)


def merge_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges in order, with those that touch or overlap joined."""
    joined: list[Range] = []
    for each in sorted(ranges):
        if joined and each.start <= joined[-1].end:
            joined[-1] = Range(joined[-1].start, max(joined[-1].end, each.end))
        else:
            joined.append(each)
    return joined


class FtraceSites:
    """The ftrace sites of one ELF file: the instructions that ftrace turns into calls and back into nops."""

    def __init__(self, found: Mapping[str, Sequence[Range]]) -> None:
        self._ranges = {place: sorted(set(ranges)) for place, ranges in found.items()}

    @property
    def ranges_by_place(self) -> Mapping[str, Sequence[Range]]:
        """The sites of each place, sorted."""
        return self._ranges

    def site_at(self, place: str, offset: int) -> Range | None:
        """The site that a byte belongs to, or None; `place` and `offset` are as in PatchSites.patched_offsets()."""
        ranges = self._ranges.get(place, [])
        index = bisect_right(ranges, offset, key=lambda each: each.start) - 1
        return ranges[index] if index >= 0 and offset < ranges[index].end else None

    def starts_within(self, place: str, start: int, size: int) -> list[int]:
        """The starts of the sites that start within `size` bytes from `start` on."""
        ranges = self._ranges.get(place, [])
        first = bisect_left(ranges, start, key=lambda each: each.start)
        last = bisect_left(ranges, start + size, key=lambda each: each.start)
        return [each.start for each in ranges[first:last]]


@lru_cache(maxsize=32)
def ftrace_sites(elf: Elf) -> FtraceSites:
    """The ftrace sites of a vmlinux or a module; none if the file has no ftrace table.

    Raises PinpointError if the tables are damaged.
    """
    try:
        return _ftrace_sites(elf)
    except BROKEN_FILE_ERRORS as error:
        raise _damaged(elf, error) from None


def _damaged(elf: Elf, error: Exception) -> PinpointError:
    return PinpointError(f"its patch tables are damaged ({type(error).__name__})", where=str(elf.path))


def _ftrace_sites(elf: Elf) -> FtraceSites:
    machine = patch_tables_of(elf.machine, elf.word_bytes)
    tables = tuple(table for table in machine.tables if table.begin_symbol == FTRACE)
    found: defaultdict[str, list[Range]] = defaultdict(list)
    if not elf.linked:
        for section, patched in _module(elf, machine, tables):
            found[section].append(patched)
    else:
        kernel = _Kernel(elf)
        for table in tables:
            found[LINKED] += kernel.patched(table)
    return FtraceSites(found)


@lru_cache(maxsize=32)
def patch_sites(elf: Elf, *, ftrace: bool = True) -> PatchSites:
    """The patch sites of a vmlinux or a module, with or without those of ftrace.

    Relocations that belong to a section are not included. Raises PinpointError if the tables are damaged.
    """
    try:
        return _patch_sites(elf, ftrace=ftrace)
    except BROKEN_FILE_ERRORS as error:
        raise _damaged(elf, error) from None


def _patch_sites(elf: Elf, *, ftrace: bool) -> PatchSites:
    if ftrace:
        return patch_sites(elf, ftrace=False).with_ftrace_sites(ftrace_sites(elf))
    machine = patch_tables_of(elf.machine, elf.word_bytes)
    tables = tuple(table for table in machine.tables if table.begin_symbol != FTRACE)
    with_skip = tuple(table for table in machine.tables if table.skip)
    found: defaultdict[str, list[Range]] = defaultdict(list)
    for symbol in elf.symbols:
        if symbol.section and machine.is_patched_whole(symbol.name):
            place = LINKED if elf.linked else symbol.section
            found[place].append(Range(symbol.address, symbol.address + max(symbol.size, elf.word_bytes)))
    found[LINKED] += [
        Range(first.address, last.address)
        for begin, end in machine.written_ranges
        for first, last in zip(elf.symbols_named(begin), elf.symbols_named(end), strict=False)
    ]
    if not elf.linked:
        for section, patched in (*_module(elf, machine, tables), *_module(elf, machine, with_skip, skipped=True)):
            found[section].append(patched)
        return PatchSites(found, known=True)
    kernel = _Kernel(elf)
    for table in (*tables, *_members(elf, machine)):
        found[LINKED] += kernel.patched(table)
    found[LINKED] += [each for table in with_skip for each in kernel.skipped(table)]
    found[LINKED] += kernel.relocated()
    return PatchSites(found, known=not machine.tables or bool(kernel.rows(*machine.tables[0][:2])))


@lru_cache(maxsize=32)
def table_addresses(vmlinux: Elf, begin: str) -> Sequence[int]:
    """The link addresses in one table of a vmlinux; `begin` is the symbol at the table's start."""
    kernel = _Kernel(vmlinux)
    return [each.start for table in _tables(vmlinux, begin) for each in kernel.patched(table)]


def table_ranges(vmlinux: Elf, begin: str) -> list[Range]:
    """The link addresses of the bytes that one table of a vmlinux names, for tables that have their own length."""
    kernel = _Kernel(vmlinux)
    return [each for table in _tables(vmlinux, begin) for each in kernel.patched(table)]


def module_table_entries(module: Elf, begin: str) -> list[tuple[str, int]]:
    """The places in one table of a module, as section and offset; `begin` is the symbol at its start in a vmlinux."""
    found = _module(module, patch_tables_of(module.machine, module.word_bytes), _tables(module, begin))
    return [(section, each.start) for section, each in found]


def _tables(elf: Elf, begin: str) -> list[PatchTableFormat]:
    return [table for table in patch_tables_of(elf.machine, elf.word_bytes).tables if table.begin_symbol == begin]


def dynamic_values(vmlinux: Elf) -> Mapping[int, int]:
    """The words that dynamic relocations write, by the link addresses of their places.

    Such relocations belong to no section. In an arm64 kernel they hold values that the words in the file lack.
    """
    word = (1 << 8 * vmlinux.word_bytes) - 1
    return {each.offset: each.addend & word for each in vmlinux.relocations("")}


class _Kernel:
    """The tables of one vmlinux."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._flat = select_table_finder(elf)
        self._relative = self._flat.relative if self._flat else dynamic_values(elf)

    def rows(self, begin: str, end: str) -> list[RowRange]:
        """The address ranges of a table; empty if this kernel does not have it."""
        if self._flat:
            return self._flat.find_row_ranges_of_table(begin)
        first, last = self._elf.symbols_named(begin), self._elf.symbols_named(end)
        return [RowRange(first[0].address, last[0].address)] if first and last else []

    def patched(self, table: PatchTableFormat) -> Iterator[Range]:
        """The bytes that one table names."""
        rows = list(self._rows(table))
        skips = self._skips(table, rows)
        for (place, row), skip in zip(rows, skips, strict=True):
            start = place + skip
            yield Range(start, start + table.patch_size(row, partial(self._code, start)))

    def skipped(self, table: PatchTableFormat) -> Iterator[Range]:
        """The pointers before the code that one table names."""
        rows = list(self._rows(table))
        for (place, _), skip in zip(rows, self._skips(table, rows), strict=True):
            if skip:
                yield Range(place, place + self._elf.word_bytes)

    def _skips(self, table: PatchTableFormat, rows: Sequence[tuple[int, Sequence[int]]]) -> Sequence[int]:
        return _skips(table, len(rows), (self._elf.bytes_at(place, _LONGEST_SKIPPED) for place, _ in rows))

    def _rows(self, table: PatchTableFormat) -> Iterator[tuple[int, Sequence[int]]]:
        """The place and the content of each row of a table."""
        for rows in self.rows(table.begin_symbol, table.end_symbol):
            whole = self._elf.bytes_at(rows.start, rows.end - rows.start)
            form = table.fitting_row_format(
                self._elf.struct_order, _word(self._elf), partial(_is_table_of, table, whole)
            )
            # The last row may lack the padding that follows the others.
            content = whole.ljust(-(-len(whole) // form.size) * form.size, b"\0")
            for index, row in enumerate(form.iter_unpack(content)):
                here = rows.start + index * form.size
                place = self._relative.get(here, row[0]) if table.holds_addresses else here + row[0]
                # A row is empty if its place was in a section that the linker discarded. Since 6.15 the addresses are
                # sorted when the kernel is linked, and empty ones are first (scripts/sorttable.c).
                if place if table.holds_addresses else row[0]:
                    yield place, row

    def relocated(self) -> Iterator[Range]:
        """The bytes of code that dynamic relocations write."""
        code = [section for section in self._elf.sections_by_name.values() if section.executable]
        for place in self._relative:
            if any(section.address <= place < section.address + section.size for section in code):
                yield Range(place, place + self._elf.word_bytes)

    def _code(self, place: int) -> bytes:
        return self._elf.bytes_at(place, _LONGEST)


def _skips(table: PatchTableFormat, count: int, codes: Iterable[bytes]) -> Sequence[int]:
    """For each of `count` rows, the distance to the patched code, or 0 for all unless each has a pointer before it."""
    found = [table.skip(code) for code in codes] if table.skip else []
    return found if found and all(found) else [0] * count


def _module(
    elf: Elf, machine: PatchTables, tables: Sequence[PatchTableFormat], *, skipped: bool = False
) -> Iterator[tuple[str, Range]]:
    """All bytes that the tables of a module name, or the pointers before them, as section and range.

    In the file the first field of a row is not relocated yet, so the place is read from the row's relocation.
    """
    for table in tables:
        moved = elf.relocations(table.section)
        if not moved:
            continue
        form = table.fitting_row_format(
            elf.struct_order, _word(elf), partial(_is_moved_by, moved, elf.sections_by_name[table.section].size)
        )
        ends = {each.offset: each for each in moved} if table.end_at else {}
        rows: list[tuple[str, int, Sequence[int]]] = []
        for each in moved:
            # An absolute symbol is in no section, so the row patches nothing of this module.
            if (each.offset - table.place_at) % form.size or each.symbol.section not in elf.sections_by_name:
                continue
            if subtracts_address(elf.machine, each):
                continue
            section = each.symbol.section
            bias = 0 if table.holds_addresses else machine.relocation_distance_bias + table.place_at
            place = each.symbol.address + each.addend - bias
            if table.end_at:
                # Both are distances from the start of the row, in fields of their own.
                last = ends[each.offset - table.place_at + table.end_at]
                yield section, Range(place, last.symbol.address + last.addend - table.end_at)
                continue
            # A section of pointers may occur many times under one name; its rows hold nothing except the pointer.
            bare = table.holds_addresses and form.size == elf.word_bytes
            rows.append((section, place, (0,) if bare else _row(elf, table, form, each.offset)))
        codes = (_start(elf, section, place, _LONGEST_SKIPPED) for section, place, _ in rows)
        for (section, place, row), skip in zip(rows, _skips(table, len(rows), codes), strict=True):
            start = place + skip
            if not skipped:
                yield section, Range(start, start + table.patch_size(row, partial(_start, elf, section, start)))
            elif skip:
                yield section, Range(place, place + elf.word_bytes)


def _word(elf: Elf) -> str:
    """The character of struct for a word of the file's machine."""
    return "Q" if elf.word_bytes == 8 else "I"


def _members(elf: Elf, machine: PatchTables) -> Iterator[PatchTableFormat]:
    """The tables of this kernel that belong to a family."""
    for family in machine.table_families:
        for symbol in elf.symbols:
            if symbol.name.startswith(family.begin_symbol):
                yield family._replace(
                    begin_symbol=symbol.name,
                    end_symbol=family.end_symbol + symbol.name.removeprefix(family.begin_symbol),
                )


def _is_table_of(table: PatchTableFormat, content: bytes, form: struct.Struct) -> bool:
    """True if the content of a linked table consists of sound rows of this form."""
    return len(content) % form.size == 0 and all(map(table.is_sound_row, form.iter_unpack(content)))


def _is_moved_by(relocations: Sequence[Relocation], size: int, form: struct.Struct) -> bool:
    """True if a module's table of `size` bytes can have rows of this form, each with one or two relocations."""
    return size % form.size == 0 and all(each.offset % form.size in (0, _SECOND) for each in relocations)


def _row(elf: Elf, table: PatchTableFormat, form: struct.Struct, offset: int) -> tuple[int, ...]:
    """A row of a module's table; the last one may lack the padding at its end."""
    fields = struct.calcsize(re.sub("[0-9]*x$", "", form.format))
    size = min(form.size, max(fields, elf.sections_by_name[table.section].size - offset))
    return form.unpack(elf.section_bytes(table.section, offset, size).ljust(form.size, b"\0"))


def _start(elf: Elf, section: str, place: int, longest: int = _LONGEST) -> bytes:
    return elf.section_bytes(section, place, min(longest, elf.sections_by_name[section].size - place))
