"""Parsers of an ELF file's tables with struct: pyelftools takes 6 s for the 95,000 symbols of a vmlinux."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

_KINDS = {0: "notype", 1: "object", 2: "func", 3: "section", 4: "file", 5: "common", 6: "tls", 10: "ifunc"}
_BINDINGS = {0: "local", 1: "global", 2: "weak", 10: "unique"}

SHN_ABS = 0xFFF1
_SHF_ALLOC, _SHF_EXECINSTR = 0x2, 0x4


class _Sum(NamedTuple):
    """The bits of a field, and what an address is multiplied with before it is added; 0: it replaces the field."""

    bits: int
    sign: int


# Relocations that write eight bytes, two or one. Every other relocation in a kernel or a module writes four bytes, or
# fields of one four-byte instruction (include/uapi/linux/elf-em.h and arch/*/kernel/module.c, 6.1).
_WIDTHS: dict[str, dict[int, int]] = {
    "EM_X86_64": {1: 8, 24: 8},  # R_X86_64_64, R_X86_64_PC64
    "EM_AARCH64": {257: 8, 260: 8, 259: 2, 262: 2},  # R_AARCH64_ABS64, PREL64, ABS16, PREL16
    "EM_MIPS": {18: 8},  # R_MIPS_64
    # R_390_64, PC64, GOT64, PLT64; 16, PC16, PC16DBL, PLT16DBL, 12, GOT16; 8
    "EM_S390": {22: 8, 23: 8, 24: 8, 25: 8, 3: 2, 16: 2, 17: 2, 18: 2, 2: 2, 15: 2, 1: 1},
    "EM_PARISC": {64: 8, 72: 8, 80: 8},  # R_PARISC_FPTR64, PCREL64, DIR64
    # R_PPC64_ADDR64, REL64, TOC, ENTRY (two instructions); ADDR16, TOC16 and REL16, with their parts and DS
    "EM_PPC64": {
        **{38: 8, 44: 8, 51: 8, 118: 8},
        **dict.fromkeys((3, 4, 5, 6, 39, 40, 41, 42, 47, 48, 49, 50, 56, 57, 63, 64, 249, 250, 251, 252), 2),
    },
    "EM_SPARCV9": {32: 8, 54: 8, 46: 8},  # R_SPARC_64, UA64, DISP64
    # R_RISCV_64, CALL, CALL_PLT (two instructions); ADD8, 16, 64; SUB8, 16, 64; ALIGN, RVC_BRANCH, RVC_JUMP, RELAX,
    # SUB6, SET6, SET8, SET16 (the psABI's elf.adoc)
    "EM_RISCV": {
        **{2: 8, 18: 8, 19: 8},
        **{33: 1, 34: 2, 36: 8, 37: 1, 38: 2, 40: 8},
        **{43: 0, 44: 2, 45: 2, 51: 0, 52: 1, 53: 1, 54: 1, 55: 2},
    },
    # R_LARCH_64, 64_PCREL, CALL36 (two instructions); ADD8, 16, 64; SUB8, 16, 64; RELAX, ALIGN, ADD6, SUB6 (the psABI's
    # laelf.adoc)
    "EM_LOONGARCH": {
        **{2: 8, 109: 8, 110: 8},
        **{47: 1, 48: 2, 51: 8, 52: 1, 53: 2, 56: 8},
        **{100: 0, 102: 0, 105: 1, 106: 1},
    },
}
_USUAL_WIDTH, _LARGEST_WIDTH = 4, 8

# Relocations that write a whole address (symbol + addend), with its width in bytes. A DWARF line table has no others,
# except those of _SUMS.
_ABSOLUTE: dict[str, dict[int, int]] = {
    "EM_X86_64": {1: 8, 10: 4},  # R_X86_64_64, R_X86_64_32
    "EM_AARCH64": {257: 8, 258: 4},  # R_AARCH64_ABS64, ABS32
    "EM_RISCV": {2: 8, 1: 4, 54: 1, 55: 2, 56: 4},  # R_RISCV_64, 32, SET8, SET16, SET32
    "EM_LOONGARCH": {2: 8, 1: 4},  # R_LARCH_64, 32
    "EM_PARISC": {1: 4, 41: 4, 80: 8},  # R_PARISC_DIR32, SECREL32, DIR64
    "EM_MIPS": {18: 8, 2: 4},  # R_MIPS_64, 32
    "EM_SPARCV9": {32: 8, 54: 8, 3: 4, 23: 4},  # R_SPARC_64, UA64, 32, UA32
    "EM_S390": {22: 8, 4: 4},  # R_390_64, 32
    "EM_SH": {1: 4},  # R_SH_DIR32
    "EM_PPC64": {38: 8, 1: 4},  # R_PPC64_ADDR64, ADDR32
    "EM_386": {1: 4},  # R_386_32
    "EM_ARM": {2: 4, 38: 4},  # R_ARM_ABS32, TARGET1, which the kernel takes as ABS32 (arch/arm/kernel/module.c, 6.1)
}

# Calls after which the module loader writes a load of the caller's TOC pointer over a nop, if the function is not the
# module's and not ftrace's (restore_r2(), arch/powerpc/kernel/module_64.c, 6.1).
_RESTORED_AFTER: dict[str, frozenset[int]] = {"EM_PPC64": frozenset({10})}  # R_PPC64_REL24
_NOT_RESTORED = "_mcount"

# Relocations that add an address to a field or subtract it, in pairs that leave the difference of two labels, because
# the linker may remove bytes between these (the psABI's elf.adoc).
_SUMS: dict[str, dict[int, _Sum]] = {
    "EM_RISCV": {
        **{33: _Sum(8, 1), 34: _Sum(16, 1), 35: _Sum(32, 1), 36: _Sum(64, 1)},  # R_RISCV_ADD8 to ADD64
        **{37: _Sum(8, -1), 38: _Sum(16, -1), 39: _Sum(32, -1), 40: _Sum(64, -1)},  # SUB8 to SUB64
        **{52: _Sum(6, -1), 53: _Sum(6, 0)},  # SUB6, SET6: the upper two bits of the byte stay
    },
    "EM_LOONGARCH": {
        **{47: _Sum(8, 1), 48: _Sum(16, 1), 50: _Sum(32, 1), 51: _Sum(64, 1)},  # R_LARCH_ADD8 to ADD64
        **{52: _Sum(8, -1), 53: _Sum(16, -1), 55: _Sum(32, -1), 56: _Sum(64, -1)},  # SUB8 to SUB64
        **{105: _Sum(6, 1), 106: _Sum(6, -1)},  # ADD6, SUB6
    },
}

# Relocations of a branch that goes to symbol + addend. RISC-V's assembler writes them for branches inside a function.
_BRANCHES: dict[str, frozenset[int]] = {
    "EM_RISCV": frozenset({16, 17, 44, 45}),  # R_RISCV_BRANCH, JAL, RVC_BRANCH, RVC_JUMP
    "EM_LOONGARCH": frozenset({64, 65, 66}),  # R_LARCH_B16, B21, B26
    "EM_MIPS": frozenset({4}),  # R_MIPS_26
}

# The section of function descriptors, and the machines on which `f` is the descriptor of the function `.f` (ELFv1).
DESCRIPTORS, DOTTED_MACHINES = ".opd", frozenset({"EM_PPC64"})


class ElfFormat(NamedTuple):
    """Word size and byte order of an ELF file."""

    word_bytes: int
    little_endian: bool

    @property
    def struct_order(self) -> str:
        """The byte order as a struct format character."""
        return "<" if self.little_endian else ">"

    @property
    def byte_order(self) -> Literal["little", "big"]:
        """The byte order as an argument of int.from_bytes()."""
        return "little" if self.little_endian else "big"


class Section(NamedTuple):
    """One section.

    `address` is the link address, 0 in a module; `offset` is the offset of its bytes in the file; the address must be a
    multiple of `alignment`.
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
    def from_pyelftools_header(cls, name: str, header: Mapping[str, int], *, linked: bool) -> Section:
        """Return the section for a header that pyelftools has read.

        In a module the value of a symbol is an offset into its section. `ld -r` may give a section an address, which
        means nothing: the module loader overwrites it (rewrite_section_headers(), kernel/module/main.c, 6.1).
        """
        return cls(
            name=name,
            address=header["sh_addr"] if linked else 0,
            offset=header["sh_offset"],
            size=header["sh_size"],
            executable=bool(header["sh_flags"] & _SHF_EXECINSTR),
            allocated=bool(header["sh_flags"] & _SHF_ALLOC),
            in_file=str(header["sh_type"]) != "SHT_NOBITS",
            alignment=max(1, header["sh_addralign"]),
        )


class Symbol(NamedTuple):
    """One symbol.

    `address` is the link address in an executable, the offset in the section in a module. `section` is "" for an
    undefined symbol, `*ABS*` for an absolute one. `kind` is `func`, `object`, `notype`...; `binding` is `local`,
    `global` or `weak`. `size` is in bytes. If the table has no size for a function, because the table was recovered
    from kallsyms, `size` is the distance to the next symbol including padding, which the kernel itself also uses
    (get_symbol_pos(), kernel/kallsyms.c, 6.1), and `size_includes_padding` is true.
    """

    name: str
    address: int
    size: int
    section: str
    kind: str
    binding: str
    size_includes_padding: bool = False


class Relocation(NamedTuple):
    """One relocation: its offset in the section that it changes, the machine's number of its type, and its symbol.

    `addend` is 0 if the section's bytes contain it instead of the table (SHT_REL).
    """

    offset: int
    type: int
    symbol: Symbol
    addend: int


def symbols(
    layout: ElfFormat, table: bytes, names: bytes, sections: Mapping[int, str], machine: str = ""
) -> list[Symbol]:
    """Return every symbol of a table, including the empty first; `sections` maps section indexes to names.

    On DOTTED_MACHINES functions are named without the dot, if the file has descriptors.
    """
    # One call for each of 100,000 symbols: the fields are positional, because keywords take a third longer.
    found = [
        Symbol(
            names[name : names.find(b"\0", name)].decode(errors="replace"),
            value,
            size,
            sections.get(index, ""),
            _KINDS.get(info & 0xF, "other"),
            _BINDINGS.get(info >> 4, "other"),
        )
        for name, value, size, info, index in _entries(layout, table)
    ]
    return _without_dots(found) if machine in DOTTED_MACHINES else found


def _entries(layout: ElfFormat, table: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield name, value, size, info and section index of every Elf64_Sym or Elf32_Sym."""
    if layout.word_bytes == 8:
        for name, info, _, index, value, size in struct.iter_unpack(f"{layout.struct_order}IBBHQQ", table):
            yield name, value, size, info, index
    else:
        for name, value, size, info, _, index in struct.iter_unpack(f"{layout.struct_order}IIIBBH", table):
            yield name, value, size, info, index


def _without_dots(table: Sequence[Symbol]) -> list[Symbol]:
    """Name functions as their source does, `f` and not `.f`, if the file has descriptors; `.TOC.` is no function.

    kprobe_lookup_name() (arch/powerpc/kernel/kprobes.c, 6.1) finds `.f` by either name.
    """
    described = {symbol.name for symbol in table if symbol.section == DESCRIPTORS}
    return [
        symbol._replace(name=symbol.name[1:])
        if described and symbol.name.startswith(".") and (symbol.name[1:] in described or not symbol.section)
        else symbol
        for symbol in table
    ]


def with_sizes(table: Sequence[Symbol], ends: Mapping[str, int]) -> list[Symbol]:
    """Return the symbols; each function without a size gets the distance to the next symbol or to its section's end.

    `ends` maps section names to end addresses. A descriptor that has its function's name is left out.
    """
    if any(symbol.section == DESCRIPTORS for symbol in table):
        functions = {symbol.name for symbol in table if symbol.kind == "func"}
        table = [symbol for symbol in table if symbol.section != DESCRIPTORS or symbol.name not in functions]
    starts: defaultdict[str, set[int]] = defaultdict(set)
    for symbol in table:
        starts[symbol.section].add(symbol.address)
    borders = {name: [*sorted(found), ends.get(name, 0)] for name, found in starts.items()}

    def sized(symbol: Symbol) -> Symbol:
        if symbol.size or symbol.kind != "func" or symbol.section not in ends:
            return symbol
        following = borders[symbol.section]
        end = following[min(bisect_right(following, symbol.address), len(following) - 1)]
        return symbol._replace(size=max(0, end - symbol.address), size_includes_padding=True)

    return [sized(symbol) for symbol in table]


def relocations(
    layout: ElfFormat, table: bytes, *, addends: bool, base: int, symbols: Sequence[Symbol], machine: str = ""
) -> Iterator[Relocation]:
    """Yield the entries of one relocation table; `base` is the link address of the section that they change.

    64-bit MIPS has the number of the symbol in the first word of r_info, and in four bytes a second symbol and three
    types, of which the kernel knows only the last, r_type (Elf64_Mips_Rel, arch/mips/include/asm/module.h, 6.1).
    """
    word, shift = ("Q", 32) if layout.word_bytes == 8 else ("I", 8)
    if machine == "EM_MIPS" and layout.word_bytes == 8:
        form = f"{layout.struct_order}QI3xB{'q' if addends else ''}"
        for offset, symbol, kind, *addend in struct.iter_unpack(form, table):
            yield Relocation(offset - base, kind, symbols[symbol], sum(addend))
        return
    form = f"{layout.struct_order}{word}{word}{word.lower() if addends else ''}"
    for offset, info, *addend in struct.iter_unpack(form, table):
        yield Relocation(offset - base, info & ((1 << shift) - 1), symbols[info >> shift], sum(addend))


def apply_to_data(
    machine: str, byte_order: Literal["little", "big"], content: bytearray, relocation: Relocation, address: int
) -> bool:
    """Change the bytes of a section of data as a relocation demands; `address` is that of its symbol plus the addend.

    Returns False for a type that no data section has.
    """
    width, added = _ABSOLUTE.get(machine, {}).get(relocation.type), None
    if width is None:
        added = _SUMS.get(machine, {}).get(relocation.type)
        if added is None:
            return False
        width = -(-added.bits // 8)
    place = slice(relocation.offset, relocation.offset + width)
    bits = added.bits if added else 8 * width
    before = int.from_bytes(content[place], byte_order)
    value = before + added.sign * address if added and added.sign else address
    mask = (1 << bits) - 1
    content[place] = (before & ~mask | value & mask).to_bytes(width, byte_order)
    return True


def is_branch(machine: str, relocation: Relocation) -> bool:
    """True if a relocation sets the target of a branch to its symbol plus its addend."""
    return relocation.type in _BRANCHES.get(machine, ())


def subtracts_address(machine: str, relocation: Relocation) -> bool:
    """True for the second relocation of a pair, which subtracts the address of its own place or of another label."""
    added = _SUMS.get(machine, {}).get(relocation.type)
    return added is not None and added.sign < 0


def _place(entry: Relocation) -> int:
    return entry.offset


def relocated_positions_within_range(machine: str, entries: Sequence[Relocation], offset: int, size: int) -> set[int]:
    """Return the positions, counted from `offset`, that sorted relocations change in `size` bytes from `offset` on."""
    widths, restored = _WIDTHS.get(machine, {}), _RESTORED_AFTER.get(machine, frozenset())
    found: set[int] = set()
    for entry in entries[bisect_left(entries, offset - _LARGEST_WIDTH, key=_place) :]:
        first = entry.offset - offset
        if first >= size:
            break
        width = widths.get(entry.type, _USUAL_WIDTH)
        if entry.type in restored and not entry.symbol.section and entry.symbol.name != _NOT_RESTORED:
            width += _USUAL_WIDTH
        found.update(range(max(0, first), min(size, first + width)))
    return found
