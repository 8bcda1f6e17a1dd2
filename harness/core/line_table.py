"""Reads the DWARF line table of an unlinked module; the section of each row is known from a relocation only."""

from __future__ import annotations

import posixpath
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

from elftools.common.exceptions import DWARFError
from elftools.construct import Container
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DWARFInfo
from elftools.elf.elffile import ELFFile

from harness.core import elf_symbols_and_relocations
from harness.core.elf import BROKEN_FILE_ERRORS, Elf
from harness.core.errors import PinpointError

_TABLE = ".debug_line"
# Each section gets an address range of its own, so that an address identifies its section. No loader lays out sections
# this far apart.
_FIRST, _APART = 0x10000, 0x10000


# Exceptions of pyelftools and zlib for content that no compiler writes.
_BROKEN_HERE = (
    *(DWARFError, zlib.error, AssertionError, OSError, RecursionError, NotImplementedError, MemoryError),
    # A line_range of 0 (lineprogram.py of pyelftools 0.33).
    ArithmeticError,
)
# The limit for the uncompressed size of a file's compressed debug sections; a kernel's have about 100 MiB.
_MOST_UNPACKED = 256 << 20


class StatementRow(NamedTuple):
    """One row of the line table at which a statement begins: section, byte offset, source path, line."""

    section: str
    offset: int
    file: str
    line: int


@lru_cache(maxsize=16)
def statement_rows(elf: Elf) -> Sequence[StatementRow]:
    """Every row that begins a statement, in the table's order.

    Raises PinpointError if the module has no line table or a damaged one, or relocations of an unknown type.
    """
    if _TABLE not in elf.sections_by_name:
        raise PinpointError(
            "no DWARF line table", where=str(elf.path), mend="build it with -g, or give the file before it was stripped"
        )
    bases = _apart(elf)
    starts, names = list(bases.values()), list(bases)
    found = []
    try:
        with elf.path.open("rb") as stream:
            parsed = ELFFile(stream)
            _demand_bounded(elf, parsed)
            for address, file, line in _statements(_dwarf(elf, parsed, bases)):
                index = bisect_right(starts, address) - 1
                # The linker sets the address of discarded code to 0, which is below all sections.
                if index >= 0:
                    found.append(StatementRow(names[index], address - starts[index], file, line))
    except (*BROKEN_FILE_ERRORS, *_BROKEN_HERE) as error:
        raise PinpointError(f"its DWARF is damaged ({error or type(error).__name__})", where=str(elf.path)) from None
    return found


def _demand_bounded(elf: Elf, parsed: ELFFile) -> None:
    """Raise PinpointError if the compressed sections are too large; zlib can expand a byte to a thousand."""
    total = 0
    for section in parsed.iter_sections():
        if section.name.startswith(".zdebug"):
            what = f"its DWARF is compressed in the old GNU format ({section.name})"
            raise PinpointError(what, where=str(elf.path), mend="build it without -gz=zlib-gnu")
        total += section.data_size if section.compressed else 0
    if total > _MOST_UNPACKED:
        raise PinpointError(f"its DWARF unpacks to {total >> 20} MiB", where=str(elf.path), mend="build it without -gz")


def _apart(elf: Elf) -> dict[str, int]:
    """An address for each section with code, by section name."""
    if elf.linked:
        return {name: section.address for name, section in _code(elf)}
    bases, address = {}, _FIRST
    for name, section in _code(elf):
        bases[name] = address
        address += section.size + _APART - section.size % _APART
    return bases


def _code(elf: Elf) -> list[tuple[str, elf_symbols_and_relocations.Section]]:
    found = [(name, section) for name, section in elf.sections_by_name.items() if section.executable and section.size]
    return sorted(found, key=lambda each: each[1].address)


def _dwarf(elf: Elf, parsed: ELFFile, bases: Mapping[str, int]) -> DWARFInfo:
    """The DWARF information of the file, with relocations applied here, because pyelftools does not support parisc."""
    dwarf = parsed.get_dwarf_info(relocate_dwarf_sections=False)
    dwarf.debug_info_sec = _relocated(elf, dwarf.debug_info_sec, bases)
    dwarf.debug_line_sec = _relocated(elf, dwarf.debug_line_sec, bases)
    return dwarf


def _relocated(
    elf: Elf, section: DebugSectionDescriptor | None, bases: Mapping[str, int]
) -> DebugSectionDescriptor | None:
    if section is None:
        return None
    section.stream.seek(0)
    content = bytearray(section.stream.read())
    for entry in elf.relocations(section.name):
        address = bases.get(entry.symbol.section, 0) + entry.symbol.address + entry.addend
        if not elf_symbols_and_relocations.apply_to_data(elf.machine, elf.byte_order, content, entry, address):
            raise PinpointError(
                f"{section.name} has a relocation of unknown type {entry.type} for {elf.machine}",
                where=str(elf.path),
            )
    return section._replace(stream=BytesIO(content))


def _statements(dwarf: DWARFInfo) -> Iterator[tuple[int, str, int]]:
    """Address, file and line of each row that begins a statement, for all compilation units."""
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        files = _files(program.header)
        for entry in program.get_entries():
            state = entry.state
            if state is not None and state.is_stmt and not state.end_sequence:
                yield state.address, files[state.file], state.line


def _files(header: Container) -> Mapping[int, str]:
    """Paths by file number.

    Since DWARF 5 files and directories are numbered from 0, because entry 0 became explicit; before, they are numbered
    from 1.
    """
    first = 0 if header.version >= 5 else 1
    directories = dict(enumerate((name.decode(errors="replace") for name in header.include_directory), first))
    return {
        number: posixpath.normpath(
            posixpath.join(directories.get(file.dir_index, ""), file.name.decode(errors="replace"))
        )
        for number, file in enumerate(header.file_entry, first)
    }
