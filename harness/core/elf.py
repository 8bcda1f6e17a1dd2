"""Reader of ELF files: symbols, sections, bytes, and the bytes that relocations change."""

from __future__ import annotations

import mmap
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, Self

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection
from elftools.elf.segments import NoteSegment

from harness.core import elf_in_place_addends, elf_symbols_and_relocations, orc_unwind_table
from harness.core.elf_symbols_and_relocations import Relocation, Section, Symbol
from harness.core.errors import PinpointError

__all__ = ["Elf", "Relocation", "Section", "Symbol"]


# What pyelftools, or slicing by its numbers, raises for headers that point outside the file, and mmap for an empty one.
BROKEN_FILE_ERRORS = (
    ELFError,
    ConstructError,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
)


_PF_X = 1
_MOVES = ("SHT_RELA", "SHT_REL")
# The largest read of zeros from a section or segment without bytes in the file; a kernel's .bss has some MiB.
_MOST_ZEROS = 64 << 20
_MOST_MODINFO = 1 << 20


class _Header(NamedTuple):
    """The fields of a section header that Section lacks."""

    type: str
    link: int
    info: int


class _Segment(NamedTuple):
    address: int
    offset: int
    in_file: int
    in_memory: int
    executable: bool


class Elf:
    """One ELF file: a module, a vmlinux or a program.

    The file is mapped and must not be truncated while this object lives. `machine` is pyelftools' name (`EM_X86_64`);
    `linked` is false for a module, whose relocations are not applied yet; `build_id` is in hex, "" if there is none;
    `entry` is the link address at which a program starts.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self._data = data
        parsed = ELFFile(data)  # type: ignore[arg-type]  # an mmap has read(), seek() and tell()
        self.machine: str = str(parsed["e_machine"])
        self.word_bytes: int = parsed.elfclass // 8
        self.linked: bool = str(parsed["e_type"]) != "ET_REL"
        self._layout = elf_symbols_and_relocations.ElfFormat(self.word_bytes, parsed.little_endian)
        found = [(part.name, part.header) for part in parsed.iter_sections()]
        self._headers = [_Header(header["sh_type"], header["sh_link"], header["sh_info"]) for _, header in found]
        self._sections = [Section.from_pyelftools_header(name, header, linked=self.linked) for name, header in found]
        self._segments = [
            _Segment(
                part["p_vaddr"], part["p_offset"], part["p_filesz"], part["p_memsz"], bool(part["p_flags"] & _PF_X)
            )
            for part in parsed.iter_segments("PT_LOAD")
        ]
        self.build_id: str = _build_id(parsed)
        self.entry: int = parsed["e_entry"]

    @property
    def byte_order(self) -> Literal["little", "big"]:
        """The byte order as an argument of int.from_bytes()."""
        return self._layout.byte_order

    @property
    def struct_order(self) -> str:
        """The byte order as the first character of a struct format: `<` or `>`."""
        return self._layout.struct_order

    @cached_property
    def modinfo_values_by_key(self) -> Mapping[str, Sequence[str]]:
        """Map each key of a module's `.modinfo` to its values, in order; empty for a file without that section.

        Raises PinpointError for a section that has no content in the file or more than 1 MiB.
        """
        section = self.sections_by_name.get(".modinfo")
        if section is None:
            return {}
        if not section.in_file or section.size > _MOST_MODINFO:
            raise PinpointError(f".modinfo has {section.size} bytes, not all in the file", where=str(self.path))
        found: defaultdict[str, list[str]] = defaultdict(list)
        for field in self.section_bytes(".modinfo", 0, section.size).decode(errors="replace").split("\0"):
            key, equals, value = field.partition("=")
            if equals:
                found[key].append(value)
        return found

    def modinfo_value(self, key: str) -> str:
        """Return the first value of a key of `.modinfo`; "" if there is none."""
        return next(iter(self.modinfo_values_by_key.get(key, ())), "")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Map one file and read its headers. Raises PinpointError when it is not a complete ELF file."""
        try:
            with path.open("rb") as stream:
                return cls(path, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise PinpointError(str(error.strerror), where=str(path)) from None
        except BROKEN_FILE_ERRORS as error:
            raise _not_whole(path, error) from None

    @classmethod
    def read_cached(cls, path: Path) -> Elf:
        """Like `read`, but cached while the file does not change: reading a vmlinux takes almost a second."""
        status = path.stat()
        return _kept(path, status.st_mtime_ns, status.st_size)

    @cached_property
    def sections_by_name(self) -> Mapping[str, Section]:
        """Sections by name; if several have one name, the first that is not empty (see `duplicated_section_names`)."""
        found: dict[str, Section] = {}
        for section in self._sections:
            if section.name not in found or not found[section.name].size:
                found[section.name] = section
        return found

    @property
    def allocated_sections(self) -> list[Section]:
        """Every section that is loaded, including sections whose names occur twice."""
        return [section for section in self._sections if section.allocated]

    @cached_property
    def duplicated_section_names(self) -> frozenset[str]:
        """Names of loaded sections that occur twice: a module with such a name gets no `sections/` in sysfs at all.

        Empty sections do not count (sect_empty(), kernel/module/sysfs.c, 6.1); gcc makes several of them for parisc.
        """
        names = Counter(section.name for section in self.allocated_sections if section.size)
        return frozenset(name for name, count in names.items() if count > 1)

    @cached_property
    def symbols(self) -> Sequence[Symbol]:
        """Every symbol except the empty first, in the table's order. Raises PinpointError when there is no table."""
        ends = {name: section.address + section.size for name, section in self.sections_by_name.items()}
        found = elf_symbols_and_relocations.with_sizes(self._table[1:], ends)
        if self.orc_table.addresses and any(each.size_includes_padding for each in found):
            text = self.sections_by_name[orc_unwind_table.TEXT]
            return orc_unwind_table.with_code_ends(found, self.orc_table, text, self._whole(text))
        return found

    @cached_property
    def orc_table(self) -> orc_unwind_table.OrcTable:
        """The unwind table of a vmlinux; empty without one. Raises PinpointError for a damaged table."""
        return orc_unwind_table.read(self.sections_by_name, self._whole, str(self.path))

    @cached_property
    def _table(self) -> list[Symbol]:
        """The symbol table as it is in the file."""
        index = next((index for index, header in enumerate(self._headers) if header.type == "SHT_SYMTAB"), None)
        if index is None:
            raise PinpointError("no symbol table", where=str(self.path), mend="give the file before it was stripped")
        names = {number: section.name for number, section in enumerate(self._sections)}
        names |= {0: "", elf_symbols_and_relocations.SHN_ABS: "*ABS*"}
        try:
            content, strings = (self._whole(self._sections[each]) for each in (index, self._headers[index].link))
            return elf_symbols_and_relocations.symbols(self._layout, content, strings, names, self.machine)
        except BROKEN_FILE_ERRORS as error:
            raise _not_whole(self.path, error) from None

    @cached_property
    def _by_name(self) -> Mapping[str, list[Symbol]]:
        found: defaultdict[str, list[Symbol]] = defaultdict(list)
        for symbol in self.symbols:
            if symbol.section:
                found[symbol.name].append(symbol)
        return found

    def symbols_named(self, name: str) -> list[Symbol]:
        """Return every defined symbol of that name, in the table's order."""
        return list(self._by_name.get(name, ()))

    def function(self, name: str) -> Symbol:
        """Return the one function of that name. Raises PinpointError when there is none or when there are several."""
        found = [symbol for symbol in self.symbols_named(name) if symbol.kind == "func"]
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} functions are named" if found else "no function is named"
        raise PinpointError(f"{what} {name!r}", where=str(self.path))

    @property
    def text_range(self) -> range:
        """The linked addresses of a vmlinux's text, from `_stext` to before `_etext`.

        Raises PinpointError when the file has no such symbols.
        """
        marks = [self.symbols_named(name) for name in ("_stext", "_etext")]
        if not all(marks):
            raise PinpointError("no symbols _stext and _etext", where=str(self.path), mend="give a vmlinux")
        return range(*(mark[0].address for mark in marks))

    def offset_in_section(self, symbol: Symbol) -> int:
        """Return a symbol's offset in its section, both for a linked file and for a module."""
        return symbol.address - self._only(symbol.section).address

    def function_bytes(self, symbol: Symbol) -> bytes:
        """Return a symbol's bytes from start to end; for a module, the bytes before relocation."""
        return self.section_bytes(symbol.section, self.offset_in_section(symbol), symbol.size)

    def section_bytes(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a section from `offset` on, zeros for a section without bytes in the file (.bss).

        Raises PinpointError when the section is missing, not unique, or too short.
        """
        section = self._only(name)
        if not 0 <= offset <= offset + size <= section.size:
            raise PinpointError(f"{name} has no {size} bytes at {offset:#x}", where=str(self.path))
        return self._bytes(section.offset + offset, size) if section.in_file else self._zeros(name, size)

    def bytes_at(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a link address of an executable, zeros where the file has no bytes (.bss).

        Raises PinpointError when no single segment contains all of them.
        """
        for segment in self._segments:
            start = address - segment.address
            if 0 <= start <= start + size <= segment.in_memory:
                count = max(0, min(size, segment.in_file - start))
                return self._bytes(segment.offset + start, count) + self._zeros("a segment", size - count)
        raise PinpointError(f"no {size} bytes are linked at {address:#x}", where=str(self.path))

    def file_offset(self, address: int) -> int:
        """Return the file offset of a link address: address - segment's address + segment's offset.

        Raises PinpointError when no segment has that byte in the file.
        """
        for segment in self._segments:
            if segment.address <= address < segment.address + segment.in_file:
                return address - segment.address + segment.offset
        raise PinpointError(f"no byte of the file is linked at {address:#x}", where=str(self.path))

    @property
    def executable_file_offsets_and_sizes(self) -> list[tuple[int, int]]:
        """Offset and size in the file of each executable segment, in bytes."""
        return [(segment.offset, segment.in_file) for segment in self._segments if segment.executable]

    def relocations(self, section: str) -> Sequence[Relocation]:
        """Return the relocations of one section, in order; none for a vmlinux linked without `--emit-relocs`."""
        return self._relocations.get(section, ())

    @cached_property
    def _relocations(self) -> Mapping[str, list[Relocation]]:
        found: defaultdict[str, list[Relocation]] = defaultdict(list)
        tables = sum(each.size for each, part in zip(self._sections, self._headers, strict=True) if part.type in _MOVES)
        if tables > len(self._data):
            raise PinpointError("its relocation tables overlap", where=str(self.path))
        for header, table in zip(self._headers, self._sections, strict=True):
            if header.type not in _MOVES:
                continue
            try:
                changed = self._sections[header.info]
                listed = elf_symbols_and_relocations.relocations(
                    self._layout,
                    self._whole(table),
                    addends=header.type == "SHT_RELA",
                    base=changed.address if self.linked else 0,
                    symbols=self._table,
                    machine=self.machine,
                )
                if changed.in_file and elf_in_place_addends.are_in_place(self.machine, header.type):
                    content = partial(self._part, changed)
                    listed = elf_in_place_addends.with_addends(self._layout, self.machine, listed, content)
                found[changed.name] += listed
            except BROKEN_FILE_ERRORS as error:
                raise _not_whole(self.path, error) from None
        for entries in found.values():
            entries.sort(key=lambda entry: entry.offset)
        return found

    def relocated_positions_within_range(self, section: str, offset: int, size: int) -> set[int]:
        """Return the positions, counted from `offset`, that relocations change in `size` bytes of a section."""
        return elf_symbols_and_relocations.relocated_positions_within_range(
            self.machine, self.relocations(section), offset, size
        )

    def _only(self, name: str) -> Section:
        if name not in self.sections_by_name:
            raise PinpointError(f"no section is named {name!r}", where=str(self.path))
        if name in self.duplicated_section_names:
            raise PinpointError(f"several sections are named {name!r}", where=str(self.path))
        return self.sections_by_name[name]

    def _part(self, section: Section, offset: int, size: int) -> bytes:
        return self._bytes(section.offset + offset, size)

    def _zeros(self, name: str, size: int) -> bytes:
        """Return zeros for bytes that are not in the file. The size is limited, because a header can claim any size."""
        if size > _MOST_ZEROS:
            raise PinpointError(f"{size:#x} bytes of {name} are not in the file", where=str(self.path))
        return bytes(size)

    def _whole(self, section: Section) -> bytes:
        return self._bytes(section.offset, section.size)

    def _bytes(self, offset: int, size: int) -> bytes:
        found = self._data[offset : offset + size]
        if len(found) != size:
            raise PinpointError(f"the file ends before {offset + size:#x}", where=str(self.path))
        return found


@lru_cache(maxsize=32)
def _kept(path: Path, modified: int, size: int) -> Elf:  # noqa: ARG001 - part of the cache key
    return Elf.read(path)


def _not_whole(path: Path, error: Exception) -> PinpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return PinpointError(f"not a whole ELF file ({reason})", where=str(path))


def _build_id(parsed: ELFFile) -> str:
    """Return the GNU build-id in hex, from the note sections, or from the segments of a file without sections."""
    sections = [part for part in parsed.iter_sections() if isinstance(part, NoteSection)]
    segments = [part for part in parsed.iter_segments("PT_NOTE") if isinstance(part, NoteSegment)]
    for part in sections or segments:
        for note in part.iter_notes():
            if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_BUILD_ID":
                return str(note["n_desc"])
    return ""
