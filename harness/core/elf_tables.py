"""The tables of an ELF file, unpacked by struct: pyelftools takes 6 s over the 95,000 symbols of a vmlinux."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

_KINDS = {0: "notype", 1: "object", 2: "func", 3: "section", 4: "file", 5: "common", 6: "tls", 10: "ifunc"}
_BINDINGS = {0: "local", 1: "global", 2: "weak", 10: "unique"}

SHN_ABS = 0xFFF1
_SHF_ALLOC, _SHF_EXECINSTR = 0x2, 0x4

# Relocations that write eight bytes or two; every other one that a kernel or a module uses writes four, or fields of
# one four-byte instruction (include/uapi/linux/elf-em.h and arch/*/kernel/module.c, 6.1).
_WIDTHS: dict[str, dict[int, int]] = {
    "EM_X86_64": {1: 8, 24: 8},  # R_X86_64_64, R_X86_64_PC64
    "EM_AARCH64": {257: 8, 260: 8, 259: 2, 262: 2},  # R_AARCH64_ABS64, PREL64, ABS16, PREL16
}
_USUAL_WIDTH, _LARGEST_WIDTH = 4, 8

# Relocations that write a whole address, symbol + addend, and how wide: all that stands in a DWARF line table.
_ABSOLUTE: dict[str, dict[int, int]] = {
    "EM_X86_64": {1: 8, 10: 4},  # R_X86_64_64, R_X86_64_32
    "EM_AARCH64": {257: 8, 258: 4},  # R_AARCH64_ABS64, ABS32
    "EM_PARISC": {1: 4},  # R_PARISC_DIR32
    "EM_386": {1: 4},  # R_386_32
}

# Relocations whose addend is a plain field of four bytes in the bytes that they change, where the table has none.
_IN_PLACE: dict[str, frozenset[int]] = {
    "EM_386": frozenset({1, 2, 4}),  # R_386_32, PC32, PLT32
}


class ElfFormat(NamedTuple):
    """How an ELF file writes its numbers."""

    word_bytes: int
    little_endian: bool

    @property
    def order(self) -> str:
        """The byte order as struct writes it."""
        return "<" if self.little_endian else ">"

    @property
    def byteorder(self) -> Literal["little", "big"]:
        """The byte order as int.from_bytes takes it."""
        return "little" if self.little_endian else "big"


class Section(NamedTuple):
    """One section.

    `address` is where it was linked, 0 in a module; `offset` where its bytes stand in the file; `alignment` is what the
    address must be a multiple of.
    """

    name: str
    address: int
    offset: int
    size: int
    executable: bool
    allocated: bool
    in_file: bool
    alignment: int

    @classmethod
    def of(cls, name: str, header: Mapping[str, int]) -> Section:
        """The section that pyelftools has read this header of."""
        return cls(
            name=name,
            address=header["sh_addr"],
            offset=header["sh_offset"],
            size=header["sh_size"],
            executable=bool(header["sh_flags"] & _SHF_EXECINSTR),
            allocated=bool(header["sh_flags"] & _SHF_ALLOC),
            in_file=str(header["sh_type"]) != "SHT_NOBITS",
            alignment=max(1, header["sh_addralign"]),
        )


class Symbol(NamedTuple):
    """One symbol.

    `address` is its linked address in an executable, its offset in its section in a module. `section` is "" for an
    undefined symbol, `*ABS*` for an absolute one. `kind` is `func`, `object`, `notype`...; `binding` `local`, `global`,
    `weak`. `size` is in bytes; where the table gives a function none, because it was recovered from kallsyms, it is the
    distance to the next symbol, padding included, as the kernel itself counts (get_symbol_pos(), kernel/kallsyms.c,
    6.1), and `padded` is true.
    """

    name: str
    address: int
    size: int
    section: str
    kind: str
    binding: str
    padded: bool = False


class Relocation(NamedTuple):
    """One relocation: its place in the section that it changes, its machine's number for its type, its symbol.

    `addend` is 0 where the machine keeps it in the bytes (SHT_REL).
    """

    offset: int
    type: int
    symbol: Symbol
    addend: int


def symbols(layout: ElfFormat, table: bytes, names: bytes, sections: Mapping[int, str]) -> list[Symbol]:
    """Every symbol of a table, the empty first one too, its section named by `sections`."""
    return [
        Symbol(
            name=names[name : names.find(b"\0", name)].decode(errors="replace"),
            address=value,
            size=size,
            section=sections.get(index, ""),
            kind=_KINDS.get(info & 0xF, "other"),
            binding=_BINDINGS.get(info >> 4, "other"),
        )
        for name, value, size, info, index in _entries(layout, table)
    ]


def _entries(layout: ElfFormat, table: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Name, value, size, info and section index of every Elf64_Sym or Elf32_Sym."""
    if layout.word_bytes == 8:
        for name, info, _, index, value, size in struct.iter_unpack(f"{layout.order}IBBHQQ", table):
            yield name, value, size, info, index
    else:
        for name, value, size, info, _, index in struct.iter_unpack(f"{layout.order}IIIBBH", table):
            yield name, value, size, info, index


def with_sizes(table: Sequence[Symbol], ends: Mapping[str, int]) -> list[Symbol]:
    """The symbols, functions without a size given the distance to what follows; `ends` is where each section ends."""
    starts: defaultdict[str, set[int]] = defaultdict(set)
    for symbol in table:
        starts[symbol.section].add(symbol.address)
    borders = {name: [*sorted(found), ends.get(name, 0)] for name, found in starts.items()}

    def sized(symbol: Symbol) -> Symbol:
        if symbol.size or symbol.kind != "func" or symbol.section not in ends:
            return symbol
        following = borders[symbol.section]
        end = following[min(bisect_right(following, symbol.address), len(following) - 1)]
        return symbol._replace(size=max(0, end - symbol.address), padded=True)

    return [sized(symbol) for symbol in table]


def relocations(
    layout: ElfFormat, table: bytes, *, addends: bool, base: int, symbols: Sequence[Symbol]
) -> Iterator[Relocation]:
    """The entries of one relocation table; `base` is the linked address of the section that they change."""
    word, shift = ("Q", 32) if layout.word_bytes == 8 else ("I", 8)
    form = f"{layout.order}{word}{word}{word.lower() if addends else ''}"
    for offset, info, *addend in struct.iter_unpack(form, table):
        yield Relocation(offset - base, info & ((1 << shift) - 1), symbols[info >> shift], sum(addend))


def with_addends(
    elf_format: ElfFormat, machine: str, entries: Iterable[Relocation], content: Callable[[int, int], bytes]
) -> Iterator[Relocation]:
    """Entries of a table without addends (SHT_REL), each with the addend read from the bytes that it changes.

    `content` returns bytes by offset and size.
    """
    plain = _IN_PLACE.get(machine, frozenset())
    for entry in entries:
        if entry.type in plain:
            addend = int.from_bytes(content(entry.offset, 4), elf_format.byteorder, signed=True)
            yield entry._replace(addend=addend)
        else:
            yield entry


def absolute_width(machine: str, relocation: Relocation) -> int | None:
    """How many bytes of plain address a relocation writes, symbol + addend; None for one of any other sort."""
    return _ABSOLUTE.get(machine, {}).get(relocation.type)


def _place(entry: Relocation) -> int:
    return entry.offset


def touched(machine: str, entries: Sequence[Relocation], offset: int, size: int) -> set[int]:
    """Which of `size` bytes from `offset` on the relocations, which come in order, change, counted from `offset`."""
    widths = _WIDTHS.get(machine, {})
    found: set[int] = set()
    for entry in entries[bisect_left(entries, offset - _LARGEST_WIDTH, key=_place) :]:
        first = entry.offset - offset
        if first >= size:
            break
        found.update(range(max(0, first), min(size, first + widths.get(entry.type, _USUAL_WIDTH))))
    return found
