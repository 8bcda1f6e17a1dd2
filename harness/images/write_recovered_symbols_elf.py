"""Writer of ELF files for recovered symbols: adds a symbol table to a file, or makes a file around a flat image.

Supports both word sizes and both byte orders. Layouts are those of elf(5).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.errors import BuildError
from harness.images.kallsyms import RecoveredSymbol

_MAGIC = b"\x7fELF"
_ET_EXEC = 2
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_NOTE, _SHT_NOBITS = 1, 2, 3, 7, 8
_SHF_WRITE, _SHF_ALLOC, _SHF_EXEC = 1, 2, 4
_PT_LOAD, _PF_RWX = 1, 7
_SHN_ABS = 0xFFF1
_STT_NOTYPE, _STT_OBJECT, _STT_FUNC = 0, 1, 2
_STB_LOCAL, _STB_GLOBAL, _STB_WEAK = 0, 1, 2
_PAGE = 4096


@dataclass(frozen=True)
class Form:
    """The layout of headers and symbols for one word size, 4 or 8 bytes, and one byte order."""

    word_bytes: int
    little_endian: bool

    @classmethod
    def from_elf_bytes(cls, elf: bytes) -> Form:
        """Return the form of an ELF file. Raises BuildError for any other file."""
        if elf[:4] != _MAGIC or elf[4] not in (1, 2) or elf[5] not in (1, 2):
            raise BuildError("not an ELF file", mend="see kernel.package in the recipe")
        return cls(4 * elf[4], elf[5] == 1)

    @property
    def ident(self) -> bytes:
        """The first 16 bytes of a file (e_ident)."""
        return (_MAGIC + bytes([self.word_bytes // 4, 1 if self.little_endian else 2, 1])).ljust(16, b"\0")

    @property
    def header_struct(self) -> struct.Struct:
        """The layout of the file's header."""
        return self._struct("16sHHIWWWIHHHHHH")

    @property
    def section_header_struct(self) -> struct.Struct:
        """The layout of a section's header, with the fields of `_Section`."""
        return self._struct("IIWWWWIIWW")

    @property
    def phdr_size(self) -> int:
        """The size of a segment's header in bytes."""
        return 56 if self.word_bytes == 8 else 32

    @property
    def sym_size(self) -> int:
        """The size of a symbol in bytes."""
        return 24 if self.word_bytes == 8 else 16

    def pack_segment_header(self, flags: int, offset: int, address: int, in_file: int, in_memory: int) -> bytes:
        """Return the header of a loaded segment; 32-bit files have the flags after the sizes."""
        if self.word_bytes == 8:
            words = (_PT_LOAD, flags, offset, address, address, in_file, in_memory, _PAGE)
            return self._struct("IIWWWWWW").pack(*words)
        return self._struct("IWWWWWIW").pack(_PT_LOAD, offset, address, address, in_file, in_memory, flags, _PAGE)

    def pack_symbol(self, name: int, info: int, section: int, address: int) -> bytes:
        """Return a symbol without a size; 32-bit files have the address before the type."""
        if self.word_bytes == 8:
            return self._struct("IBBHWW").pack(name, info, 0, section, address, 0)
        return self._struct("IWWBBH").pack(name, address, 0, info, 0, section)

    def _struct(self, fields: str) -> struct.Struct:
        order, word = "<" if self.little_endian else ">", "Q" if self.word_bytes == 8 else "I"
        return struct.Struct(order + fields.replace("W", word))


@dataclass(frozen=True)
class FlatSection:
    """A section of a flat image, by its link addresses; `end` is the address after the last byte."""

    name: str
    start: int
    end: int
    executable: bool
    in_file: bool = True
    is_note: bool = False


class _Section(NamedTuple):
    """One section header, with the fields in the file's order."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int = 0
    info: int = 0
    align: int = 1
    entry: int = 0


def elf_bytes_from_flat_image(
    image: bytes, base: int, places: Sequence[FlatSection], machine: int, form: Form
) -> bytes:
    """Return an ELF for `machine` (e_machine): `image` at `base`, one loaded segment, a section for each place."""
    names = _Strings()
    sections = [_Section(0, 0, 0, 0, 0, 0, align=0)]
    for place in places:
        kind = _SHT_NOTE if place.is_note else _SHT_PROGBITS if place.in_file else _SHT_NOBITS
        flags = _SHF_ALLOC | (_SHF_EXEC if place.executable else 0) | (0 if place.in_file else _SHF_WRITE)
        offset = _PAGE + place.start - base
        sections.append(_Section(names.add(place.name), kind, flags, place.start, offset, place.end - place.start))
    in_memory = max(place.end for place in places) - base
    segment = form.pack_segment_header(_PF_RWX, _PAGE, base, len(image), in_memory)
    strings_at = _PAGE + len(image)
    sections.append(_Section(names.add(".shstrtab"), _SHT_STRTAB, 0, 0, strings_at, len(names.content)))
    table_at = _aligned(strings_at + len(names.content))
    ehdr, shdr = form.header_struct, form.section_header_struct
    header = ehdr.pack(
        *(form.ident, _ET_EXEC, machine, 1, base, ehdr.size, table_at, 0),
        *(ehdr.size, form.phdr_size, 1, shdr.size, len(sections), len(sections) - 1),
    )
    front = (header + segment).ljust(_PAGE, b"\0") + image + names.content
    return front.ljust(table_at, b"\0") + b"".join(shdr.pack(*section) for section in sections)


def with_symbols(elf: bytes, symbols: Sequence[RecoveredSymbol]) -> bytes:
    """Return the file with a symbol table. Nothing else moves, because the new tables are at the end.

    Symbols get no size, because kallsyms has none. Raises BuildError for a file that is not ELF or has a symbol table.
    """
    form = Form.from_elf_bytes(elf)
    ehdr, shdr = form.header_struct, form.section_header_struct
    fields = list(ehdr.unpack_from(elf))
    count, names_index = fields[12], fields[13]
    sections = _sections(elf, form)
    if any(section.type == _SHT_SYMTAB for section in sections):
        raise BuildError("the kernel already has a symbol table", mend="use it as it is")
    old = sections[names_index]
    names = _Strings(elf[old.offset : old.offset + old.size])
    table, strings, first_global = _symbol_table(symbols, sections, form)
    symtab_at = _aligned(len(elf))
    strtab_at = symtab_at + len(table)
    symtab, strtab, shstrtab = (names.add(name) for name in (".symtab", ".strtab", ".shstrtab"))
    names_at = strtab_at + len(strings)
    headers = [
        *sections,
        _Section(
            symtab, _SHT_SYMTAB, 0, 0, symtab_at, len(table), count + 1, first_global, form.word_bytes, form.sym_size
        ),
        _Section(strtab, _SHT_STRTAB, 0, 0, strtab_at, len(strings)),
        _Section(shstrtab, _SHT_STRTAB, 0, 0, names_at, len(names.content)),
    ]
    fields[6] = _aligned(names_at + len(names.content))
    fields[12], fields[13] = len(headers), len(headers) - 1
    body = ehdr.pack(*fields) + elf[ehdr.size :]
    tables = body.ljust(symtab_at, b"\0") + table + strings + names.content
    return tables.ljust(fields[6], b"\0") + b"".join(shdr.pack(*header) for header in headers)


def count_symbols(elf: bytes) -> int:
    """Return the number of entries in the symbol table of an ELF file; 0 if it has no table."""
    form = Form.from_elf_bytes(elf)
    tables = (section for section in _sections(elf, form) if section.type == _SHT_SYMTAB)
    return sum(table.size // form.sym_size for table in tables)


def _sections(elf: bytes, form: Form) -> list[_Section]:
    fields, shdr = form.header_struct.unpack_from(elf), form.section_header_struct
    return [_Section(*shdr.unpack_from(elf, fields[6] + index * shdr.size)) for index in range(fields[12])]


def _symbol_table(
    symbols: Sequence[RecoveredSymbol], sections: Sequence[_Section], form: Form
) -> tuple[bytes, bytes, int]:
    """Return the table, its strings, and the index of its first global symbol: locals come first (elf(5), sh_info)."""
    ranked = sorted(symbols, key=lambda symbol: symbol.letter.islower() and symbol.letter not in "uvw", reverse=True)
    names = _Strings()
    finder = _Finder(sections)
    entries = [bytes(form.sym_size)]
    first_global = 1
    for symbol in ranked:
        binding = _binding(symbol.letter)
        first_global += binding == _STB_LOCAL
        index, kind = finder.place(symbol)
        entries.append(form.pack_symbol(names.add(symbol.name), binding << 4 | kind, index, symbol.address))
    return b"".join(entries), names.content, first_global


def _binding(letter: str) -> int:
    """Return the binding for nm's letter; every lower-case letter except u, v and w is local."""
    if letter in "vwVW":
        return _STB_WEAK
    return _STB_LOCAL if letter.islower() and letter != "u" else _STB_GLOBAL


class _Finder:
    """Finder of the section that contains an address."""

    def __init__(self, sections: Sequence[_Section]) -> None:
        loaded = [
            (section.address, section.address + section.size, index, bool(section.flags & _SHF_EXEC))
            for index, section in enumerate(sections)
            if section.flags & _SHF_ALLOC and section.size and section.type != _SHT_NOTE
        ]
        self._sections = sorted(loaded)
        self._starts = [start for start, *_ in self._sections]

    def place(self, symbol: RecoveredSymbol) -> tuple[int, int]:
        """Return the section index and the type of a symbol.

        A border such as _etext is at the end of its section, not in it, so it is neither function nor object. The same
        holds for a symbol that kallsyms lists as absolute, unless it is per-CPU data, whose section is linked at 0.
        """
        position = bisect_right(self._starts, symbol.address) - 1
        if position < 0:
            return _SHN_ABS, _STT_NOTYPE
        _, end, index, executable = self._sections[position]
        if symbol.address > end or (symbol.letter in "aA" and self._sections[position][0]):
            return _SHN_ABS, _STT_NOTYPE
        if symbol.address == end:
            return index, _STT_NOTYPE
        return index, _STT_FUNC if executable else _STT_OBJECT


class _Strings:
    """A string table under construction."""

    def __init__(self, content: bytes = b"\0") -> None:
        self._content = bytearray(content)

    @property
    def content(self) -> bytes:
        return bytes(self._content)

    def add(self, text: str) -> int:
        """Add a string at the end and return its offset."""
        offset = len(self._content)
        self._content += text.encode() + b"\0"
        return offset


def _aligned(offset: int) -> int:
    return (offset + 15) & ~15
