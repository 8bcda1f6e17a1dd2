"""Finds the separate symbol table of a stripped file as debuggers do, and proves that it belongs to that file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from enum import Enum
from functools import cached_property
from pathlib import Path

from harness.core.elf import Elf, Symbol
from harness.core.errors import PinpointError

_LINK = ".gnu_debuglink"


class WrongDebugFileError(PinpointError):
    """A file of symbols that belongs to another build."""


class DebugFileLookup(Enum):
    """How the debug file of a stripped file is found."""

    ANY = "any"
    BUILD_ID = "build-id"
    DEBUGLINK = "debuglink"


def find_elf_with_symbols(file: Path, by: DebugFileLookup = DebugFileLookup.ANY) -> Elf:
    """The ELF file that has the symbol table of `file`.

    It is `file` itself, or else its debug file, found by build-id or by .gnu_debuglink, as `by` permits. Raises
    PinpointError when none is found, WrongDebugFileError when the file found is of another build.
    """
    elf = Elf.read_cached(file)
    if ".symtab" in elf.sections_by_name:
        return elf
    if by is not DebugFileLookup.DEBUGLINK and (found := find_elf_by_build_id(elf, file.parent.parent)):
        return found
    if by is not DebugFileLookup.BUILD_ID and (found := find_elf_by_debuglink(elf, file.parent)):
        return found
    raise PinpointError("stripped, and no debug file is found", where=str(file), mend="keep its separate .debug file")


class _StrippedElf(Elf):
    """A stripped file with the symbols of its debug file, which has no code."""

    debug_file: Elf

    @cached_property
    def symbols(self) -> Sequence[Symbol]:
        """The symbols of the debug file."""
        return self.debug_file.symbols


def elf_with_code_and_symbols(file: Path, symbol_file: Elf) -> Elf:
    """The ELF file with the code of `file` and the symbols of `symbol_file`, which find_elf_with_symbols() found."""
    if symbol_file.path == file:
        return symbol_file
    found = _StrippedElf.read(file)
    found.debug_file = symbol_file
    return found


def find_elf_by_build_id(elf: Elf, root: Path) -> Elf | None:
    """The debug file below `root`/.build-id, or None if there is none. Raises WrongDebugFileError."""
    found = root / ".build-id" / elf.build_id[:2] / f"{elf.build_id[2:]}.debug"
    return _proved(elf, found) if elf.build_id and found.is_file() else None


def find_elf_by_debuglink(elf: Elf, directory: Path) -> Elf | None:
    """The debug file that .gnu_debuglink names, in the file's own directory or in .debug/; None if there is none.

    The section holds the name, zeros up to a multiple of four bytes, and the CRC-32 of the whole debug file. Raises
    WrongDebugFileError when the CRC or the build-id differs.
    """
    section = elf.sections_by_name.get(_LINK)
    if section is None:
        return None
    content = elf.section_bytes(_LINK, 0, section.size)
    name = content.partition(b"\0")[0].decode(errors="replace")
    wanted = int.from_bytes(content[-4:], elf.byte_order)
    for found in (directory / name, directory / ".debug" / name):
        if found.is_file():
            if zlib.crc32(found.read_bytes()) != wanted:
                raise WrongDebugFileError("its CRC is not the one in .gnu_debuglink", where=str(found))
            return _proved(elf, found)
    return None


def _proved(elf: Elf, found: Path) -> Elf:
    debug = Elf.read_cached(found)
    if debug.build_id != elf.build_id:
        raise WrongDebugFileError(f"is of build {debug.build_id[:12]}, not {elf.build_id[:12]}", where=str(found))
    return debug
