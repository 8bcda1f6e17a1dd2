"""Addresses as closest symbol + offset: from the ELF files, and parsed from what the kernel prints."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

# What scripts/mksysmap leaves out of kallsyms, and is_arm_mapping_symbol() in modules' (kernel/module/kallsyms.c, 6.1).
_NOT_KEPT = ("$", ".L", "__crc_", "__kstrtab_", "__kstrtabns_")


class Named(NamedTuple):
    """A symbol where it is loaded; `module` is empty for vmlinux."""

    address: int
    name: str
    module: str = ""


class SymbolOffset(NamedTuple):
    """The closest symbol at or below an address, and the bytes from there to the address.

    `names` are all names of the symbol's address: each of them means the same place. `module` is empty for vmlinux.
    """

    names: tuple[str, ...]
    offset: int
    module: str = ""

    def __str__(self) -> str:
        where = f" [{self.module}]" if self.module else ""
        return f"{self.names[0]}+{self.offset:#x}{where}"


class KernelSymbolOffset(NamedTuple):
    """An address as the kernel prints it: one name, and the bytes from there."""

    name: str
    offset: int
    module: str = ""

    def means(self, place: SymbolOffset | None) -> bool:
        """True when this is the place, by one of its names."""
        return place is not None and self.name in place.names and (self.offset, self.module) == place[1:]

    def __str__(self) -> str:
        return str(SymbolOffset((self.name,), self.offset, self.module))


class Closest:
    """Symbols by the address they are loaded at, as kallsyms would keep them."""

    def __init__(self, symbols: Iterable[Named]) -> None:
        names: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
        for symbol in symbols:
            if symbol.name and not symbol.name.startswith(_NOT_KEPT):
                names[symbol.address, symbol.module].append(symbol.name)
        self._starts = sorted(names)
        self._names = names

    def at(self, address: int) -> SymbolOffset | None:
        """What an address means; None below all symbols.

        How far up a symbol reaches is not asked, as the kernel does not (get_symbol_pos(), kernel/kallsyms.c, 6.1).
        """
        index = bisect_right(self._starts, address, key=lambda start: start[0]) - 1
        if index < 0:
            return None
        start = self._starts[index]
        return SymbolOffset(tuple(self._names[start]), address - start[0], start[1])


class ClosestOfAll:
    """Several tables as one, each with the bytes that its symbols were moved by."""

    def __init__(self, *tables: tuple[Closest, int]) -> None:
        self._tables = tables

    def at(self, address: int) -> SymbolOffset | None:
        """What an address means; None below all symbols."""
        places = (table.at(address - moved) for table, moved in self._tables)
        return min(filter(None, places), key=lambda place: place.offset, default=None)


# sprint_symbol(): "sym+0xoff/0xsize", " [mod]" behind it; kprobes/list: "sym+0xoff", " mod" (kernel/kprobes.c, 6.1).
_WORDS = re.compile(r"(?P<name>\S+)\+0x(?P<offset>[0-9a-f]+)(?:/0x[0-9a-f]+)?(?: \[?(?P<module>[^\]\s]+)\]?)?")


def read(words: str) -> KernelSymbolOffset | None:
    """What the kernel's words mean; None for the bare number that it prints when it knows no symbol."""
    found = _WORDS.fullmatch(words.strip())
    return KernelSymbolOffset(found["name"], int(found["offset"], 16), found["module"] or "") if found else None
