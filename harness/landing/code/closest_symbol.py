"""Addresses as closest symbol + offset: from the ELF files, and parsed from what the kernel prints."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from harness.core.elf import Elf
from harness.landing.code.function_descriptors import has_dotted_functions

# Prefixes of symbols that kallsyms does not list: scripts/mksysmap drops them from the kernel's symbols, and
# is_arm_mapping_symbol() from modules' (kernel/module/kallsyms.c, 6.1); of LoongArch's assembler, include/linux/
# module_symbol.h (6.12).
_NOT_KEPT = ("$", ".L", "L0\x01", "__crc_", "__kstrtab_", "__kstrtabns_")


def is_kept_by_kallsyms(name: str) -> bool:
    """Return True for the name of a symbol that kallsyms lists."""
    return bool(name) and not name.startswith(_NOT_KEPT)


class LoadedSymbol(NamedTuple):
    """A symbol and its load address; `module` is empty for vmlinux."""

    address: int
    name: str
    module: str = ""


class SymbolOffset(NamedTuple):
    """The closest symbol at or below an address, and the offset of the address from it, in bytes.

    `names` holds all names of the symbol's address; they are equivalent. `module` is empty for vmlinux.
    """

    names: tuple[str, ...]
    offset: int
    module: str = ""

    def __str__(self) -> str:
        where = f" [{self.module}]" if self.module else ""
        return f"{self.names[0]}+{self.offset:#x}{where}"


class KernelSymbolOffset(NamedTuple):
    """An address as the kernel prints it: one symbol name, and an offset from it in bytes."""

    name: str
    offset: int
    module: str = ""

    def is_same_place(self, place: SymbolOffset | None) -> bool:
        """True if this is the same place, by any of its names."""
        return place is not None and (self.offset, self.module) == place[1:] and self.name in place.names

    def named_as_in(self, kernel: Elf) -> KernelSymbolOffset:
        """Return this with the name that the ELF files have here.

        The kernel prints a dot before the name of a function that has a descriptor (ELFv1 of PowerPC). No other
        kernel's names change.
        """
        return self._replace(name=self.name.removeprefix(".")) if has_dotted_functions(kernel) else self

    def __str__(self) -> str:
        return str(SymbolOffset((self.name,), self.offset, self.module))


class ClosestSymbolTable:
    """Symbols by load address, restricted to those that kallsyms would list."""

    def __init__(self, symbols: Iterable[LoadedSymbol]) -> None:
        names: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
        for symbol in symbols:
            if is_kept_by_kallsyms(symbol.name):
                names[symbol.address, symbol.module].append(symbol.name)
        self._starts = sorted(names)
        self._names = names

    def symbol_offset_at(self, address: int) -> SymbolOffset | None:
        """The closest symbol at or below an address; None if the address is below all symbols.

        The size of the symbol is ignored, as the kernel ignores it (get_symbol_pos(), kernel/kallsyms.c, 6.1).
        """
        index = bisect_right(self._starts, address, key=lambda start: start[0]) - 1
        if index < 0:
            return None
        start = self._starts[index]
        return SymbolOffset(tuple(self._names[start]), address - start[0], start[1])


class CombinedSymbolTables:
    """Several tables as one, each with the distance in bytes by which its symbols were moved."""

    def __init__(self, *tables: tuple[ClosestSymbolTable, int]) -> None:
        self._tables = tables

    def symbol_offset_at(self, address: int) -> SymbolOffset | None:
        """The closest symbol at or below an address; None if the address is below all symbols."""
        places = (table.symbol_offset_at(address - moved) for table, moved in self._tables)
        return min(filter(None, places), key=lambda place: place.offset, default=None)


# sprint_symbol() prints "sym+0xoff/0xsize" and for a module " [mod]" after it; kprobes/list has "sym+0xoff" and " mod"
# (kernel/kprobes.c, 6.1).
_WORDS = re.compile(r"(?P<name>\S+)\+0x(?P<offset>[0-9a-f]+)(?:/0x[0-9a-f]+)?(?: \[?(?P<module>[^\]\s]+)\]?)?")


def parse_symbol_offset(words: str) -> KernelSymbolOffset | None:
    """Parse symbol + offset as the kernel prints it; None for a bare number, which it prints if it finds no symbol."""
    found = _WORDS.fullmatch(words.strip())
    return KernelSymbolOffset(found["name"], int(found["offset"], 16), found["module"] or "") if found else None
