"""Addends that are in the bytes that relocations change: those of a table that has none (SHT_REL), and SuperH's.

`ld -r` leaves a part of SuperH's addends there, and the module loader adds both (apply_relocate_add(),
arch/sh/kernel/module.c, 6.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from harness.core.elf_symbols_and_relocations import ElfFormat, Relocation, Symbol


class _Field(NamedTuple):
    """A signed addend in the lower bits of a word of four bytes, which counts units of 1 << shift bytes."""

    bits: int = 32
    shift: int = 0

    def value(self, word: int) -> int:
        """Return the addend that a word has."""
        found = word & ((1 << self.bits) - 1)
        return (found - (found >> (self.bits - 1) << self.bits)) << self.shift


_WORD = _Field()
# The addends of all other types are 0 here: on ARM they are in several fields.
_FIELDS: Mapping[str, Mapping[int, _Field]] = MappingProxyType(
    {
        "EM_386": {1: _WORD, 2: _WORD, 4: _WORD},  # R_386_32, PC32, PLT32
        "EM_MIPS": {2: _WORD, 4: _Field(26, 2), 6: _Field(16)},  # R_MIPS_32, 26, LO16
        "EM_ARM": {2: _WORD, 3: _WORD, 38: _WORD},  # R_ARM_ABS32, REL32, TARGET1
        "EM_SH": {1: _WORD, 2: _WORD},  # R_SH_DIR32, REL32
    }
)
_BESIDE_ADDENDS = frozenset({"EM_SH"})


# R_MIPS_HI16 and LO16 have the halves of one address. A table has a HI16, or several, before the first LO16 of the same
# symbol, whose signed field is added to theirs (apply_r_mips_lo16(), arch/mips/kernel/module.c, 6.1).
_UPPER_HALVES: Mapping[str, int] = MappingProxyType({"EM_MIPS": 5})
_LOWER_HALVES: Mapping[str, int] = MappingProxyType({"EM_MIPS": 6})
_UPPER = _Field(16, 16)


def are_in_place(machine: str, table_type: str) -> bool:
    """Return True if the bytes that a table's relocations change have addends, or a part of them."""
    return table_type == "SHT_REL" or machine in _BESIDE_ADDENDS


def with_addends(
    elf_format: ElfFormat, machine: str, entries: Iterable[Relocation], content: Callable[[int, int], bytes]
) -> Iterator[Relocation]:
    """Yield the entries of a table with the addends from the bytes that it changes added; an upper half is delayed.

    `content` returns bytes by offset and size. An upper half without a lower one has only the addend of its own field.
    """
    fields, upper, lower = _FIELDS.get(machine, {}), _UPPER_HALVES.get(machine), _LOWER_HALVES.get(machine)
    waiting: list[Relocation] = []
    of_symbol: dict[Symbol, int] = {}
    for entry in entries:
        field = _UPPER if entry.type == upper else fields.get(entry.type)
        if field is None:
            yield entry
            continue
        addend = field.value(int.from_bytes(content(entry.offset, 4), elf_format.byte_order))
        if entry.type == upper:
            of_symbol[entry.symbol] = addend
            waiting.append(entry._replace(addend=addend))
        elif entry.type == lower:
            yield from (each._replace(addend=each.addend + addend) for each in waiting)
            waiting = []
            yield entry._replace(addend=of_symbol.get(entry.symbol, 0) + addend)
        else:
            yield entry._replace(addend=entry.addend + addend)
    yield from waiting
