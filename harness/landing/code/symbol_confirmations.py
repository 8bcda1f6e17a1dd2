"""What else in a kernel's own file confirms its symbols, independent of the symbol table and of kallsyms.

Four sources. `exports` confirm name and address (`__ksymtab`). `ftrace` (`__mcount_loc`) and `unwind` (ORC on x86_64,
`.PARISC.unwind`) confirm that a function begins at an address. `btf` confirms that a function has the name.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.core.struct_fields import function_names_in_btf
from harness.landing.code.exported_symbols import exported_symbols
from harness.landing.code.patch_sites import LINKED, ftrace_sites

EXPORTS, FTRACE, UNWIND, BTF = "exports", "ftrace", "unwind", "btf"
# The sources that confirm an address.
OF_ADDRESS = (EXPORTS, FTRACE, UNWIND)
SOURCES = (*OF_ADDRESS, BTF)
# ftrace's site is at the start, or after a landing pad of 4 bytes (ENDBR64, BTI C). With CONFIG_FUNCTION_ALIGNMENT and
# DYNAMIC_FTRACE_WITH_CALL_OPS the record of arm64 names two words before the start (ftrace_call_adjust(), since 6.3).
_FTRACE_DISTANCES = (0, 4, -8)
# objtool's unwind rows include the NOPs that the compiler puts before a function (since 6.2).
_PREAMBLE, _NOP = 16, 0x90
_PARISC_UNWIND = ".PARISC.unwind"


class Contradiction(NamedTuple):
    """An exported function whose symbol has another address; addresses are link addresses."""

    name: str
    symbol_address: int
    exported_address: int

    def __str__(self) -> str:
        return f"{self.name}: symbol at {self.symbol_address:#x}, exported at {self.exported_address:#x}"


class SymbolConfirmations:
    """The independent sources in one vmlinux; a source that the file lacks confirms nothing."""

    def __init__(self, vmlinux: Elf) -> None:
        self._vmlinux = vmlinux
        self._exports: Mapping[str, int] = exported_symbols(vmlinux)
        self._traced = {each.start for each in ftrace_sites(vmlinux).ranges_by_place.get(LINKED, ())}
        self._unwound = _unwind_starts(vmlinux)
        self._preambles = sorted(self._unwound) if vmlinux.orc_table.addresses else []
        self._names = function_names_in_btf(vmlinux.path.read_bytes())

    def sources_of(self, symbol: Symbol) -> tuple[str, ...]:
        """The sources that confirm a function's symbol, of SOURCES."""
        held = {
            EXPORTS: self._exports.get(symbol.name) == symbol.address,
            FTRACE: any(symbol.address + distance in self._traced for distance in _FTRACE_DISTANCES),
            UNWIND: symbol.address in self._unwound or self._after_preamble(symbol.address),
            # gcc's clones, such as `f.isra.0` and `f.cold`, have the BTF of `f`, or none.
            BTF: symbol.name in self._names,
        }
        return tuple(source for source in SOURCES if held[source])

    def _after_preamble(self, address: int) -> bool:
        """True if an unwind row begins in the NOPs right before an address."""
        index = bisect_left(self._preambles, address) - 1
        distance = address - self._preambles[index] if index >= 0 else _PREAMBLE + 1
        if distance > _PREAMBLE:
            return False
        return set(self._vmlinux.bytes_at(address - distance, distance)) == {_NOP}

    def contradictions(self, symbols: Iterable[Symbol]) -> list[Contradiction]:
        """The exported functions among these symbols whose symbol has another address."""
        return [
            Contradiction(symbol.name, symbol.address, self._exports[symbol.name])
            for symbol in symbols
            if self._exports.get(symbol.name, symbol.address) != symbol.address
        ]

    def counts(self, symbols: Sequence[Symbol]) -> Mapping[str, int]:
        """How many of the symbols each source confirms; `independent` is by any source of an address."""
        found: Counter[str] = Counter(dict.fromkeys((*SOURCES, "independent"), 0))
        for symbol in symbols:
            sources = self.sources_of(symbol)
            found.update(sources)
            found["independent"] += any(source in OF_ADDRESS for source in sources)
        return found


@lru_cache(maxsize=8)
def symbol_confirmations(vmlinux: Elf) -> SymbolConfirmations:
    """The sources of one vmlinux; they are read once."""
    return SymbolConfirmations(vmlinux)


def _unwind_starts(vmlinux: Elf) -> set[int]:
    if _PARISC_UNWIND not in vmlinux.sections_by_name:
        return set(vmlinux.orc_table.function_starts())
    # Rows of start, end and two words of flags; addresses count from the start of the image
    # (unwind_table_init(), arch/parisc/kernel/unwind.c, 6.1).
    size = vmlinux.sections_by_name[_PARISC_UNWIND].size
    content = vmlinux.section_bytes(_PARISC_UNWIND, 0, size // 16 * 16)
    base = min(section.address for section in vmlinux.allocated_sections if section.executable)
    return {base + start for (start,) in struct.iter_unpack(f"{vmlinux.struct_order}I12x", content)}
