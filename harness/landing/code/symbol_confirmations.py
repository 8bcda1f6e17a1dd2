"""What else in a kernel's own file confirms its symbols, independent of the symbol table and of kallsyms.

Five sources. `exports` confirm name and address (`__ksymtab`). `ftrace` (`__mcount_loc`) and `unwind` (ORC on x86_64,
`.PARISC.unwind`, the unwind index on ARM) confirm that a function begins at an address. `btf` confirms that a function
has the name. `debug`, the symbols of Debian's debug package, confirms name and address; it is there with
--debug-symbols.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.core.struct_fields import function_names_in_btf
from harness.images.debug_symbols import read_functions
from harness.landing.code.arm_unwind_index import unwind_index_starts
from harness.landing.code.exported_symbols import exported_symbols
from harness.landing.code.patch_sites import LINKED, ftrace_sites

EXPORTS, FTRACE, UNWIND, BTF, DEBUG = "exports", "ftrace", "unwind", "btf", "debug"
# The sources that confirm an address.
OF_ADDRESS = (EXPORTS, FTRACE, UNWIND, DEBUG)
SOURCES = (*OF_ADDRESS, BTF)
# ftrace's site is at the start, or after a landing pad of 4 bytes (ENDBR64, BTI C). With CONFIG_FUNCTION_ALIGNMENT and
# DYNAMIC_FTRACE_WITH_CALL_OPS the record of arm64 names two words before the start (ftrace_call_adjust(), since 6.3).
# On 64-bit PowerPC the site is the second instruction after the local entry, which is at 8 bytes or at the start.
_FTRACE_DISTANCES = (0, 4, -8, 12)
# objtool's unwind rows include the NOPs that the compiler puts before a function (since 6.2).
_PREAMBLE, _NOP = 16, 0x90
_PARISC_UNWIND = ".PARISC.unwind"


class Contradiction(NamedTuple):
    """A function whose symbol has another address than in a source; addresses are link addresses."""

    name: str
    symbol_address: int
    source: str
    source_addresses: tuple[int, ...]

    def __str__(self) -> str:
        addresses = " and ".join(f"{address:#x}" for address in self.source_addresses)
        return f"{self.name}: symbol at {self.symbol_address:#x}, in {self.source} at {addresses}"


class SymbolConfirmations:
    """The independent sources of one vmlinux; a source that is missing confirms nothing.

    `debug_symbols` is a file of images/debug_symbols.py.
    """

    def __init__(self, vmlinux: Elf, debug_symbols: Path | None = None) -> None:
        self._vmlinux = vmlinux
        self._debug = read_functions(debug_symbols) if debug_symbols else {}
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
            DEBUG: symbol.address in self._debug_addresses(symbol),
        }
        return tuple(source for source in SOURCES if held[source])

    def _after_preamble(self, address: int) -> bool:
        """True if an unwind row begins in the NOPs right before an address."""
        index = bisect_left(self._preambles, address) - 1
        distance = address - self._preambles[index] if index >= 0 else _PREAMBLE + 1
        if distance > _PREAMBLE:
            return False
        return set(self._vmlinux.bytes_at(address - distance, distance)) == {_NOP}

    def _debug_addresses(self, symbol: Symbol) -> tuple[int, ...]:
        return tuple(each.address for each in self._debug.get(symbol.name, ()))

    def contradictions(self, symbols: Iterable[Symbol]) -> list[Contradiction]:
        """The functions among these symbols that are exported, or in the debug package, at other addresses."""
        found = []
        for symbol in symbols:
            exported = (self._exports[symbol.name],) if symbol.name in self._exports else ()
            for source, addresses in ((EXPORTS, exported), (DEBUG, self._debug_addresses(symbol))):
                if addresses and symbol.address not in addresses:
                    found.append(Contradiction(symbol.name, symbol.address, source, addresses))
        return found

    def size_counts(self, symbols: Iterable[Symbol]) -> Mapping[str, int]:
        """How many of the symbols have a known end, and how many of these ends are those of the debug package.

        `sizes` have the end of the function, without padding; `same`, `longer` and `shorter` compare it with the debug
        package's.
        """
        found = Counter(sizes=0, same=0, longer=0, shorter=0)
        for symbol in symbols:
            linked = [each.size for each in self._debug.get(symbol.name, ()) if each.address == symbol.address]
            if symbol.size_includes_padding or not linked or not linked[0]:
                continue
            found["sizes"] += 1
            found["same" if symbol.size == linked[0] else "longer" if symbol.size > linked[0] else "shorter"] += 1
        return found

    def counts(self, symbols: Sequence[Symbol]) -> Mapping[str, int]:
        """How many of the symbols each source confirms; `independent` is by any source of an address."""
        found: Counter[str] = Counter(dict.fromkeys((*SOURCES, "independent"), 0))
        for symbol in symbols:
            sources = self.sources_of(symbol)
            found.update(sources)
            found["independent"] += any(source in OF_ADDRESS for source in sources)
        return found


@lru_cache(maxsize=8)
def symbol_confirmations(vmlinux: Elf, debug_symbols: Path | None = None) -> SymbolConfirmations:
    """The sources of one vmlinux; they are read once."""
    return SymbolConfirmations(vmlinux, debug_symbols)


def _orc_starts(vmlinux: Elf) -> set[int]:
    return set(vmlinux.orc_table.function_starts())


_OTHER_UNWIND_TABLES: Mapping[str, Callable[[Elf], set[int]]] = {"EM_ARM": unwind_index_starts}


def _unwind_starts(vmlinux: Elf) -> set[int]:
    if _PARISC_UNWIND not in vmlinux.sections_by_name:
        return _OTHER_UNWIND_TABLES.get(vmlinux.machine, _orc_starts)(vmlinux)
    # Rows of start, end and two words of flags; addresses count from the start of the image
    # (unwind_table_init(), arch/parisc/kernel/unwind.c, 6.1).
    size = vmlinux.sections_by_name[_PARISC_UNWIND].size
    content = vmlinux.section_bytes(_PARISC_UNWIND, 0, size // 16 * 16)
    base = min(section.address for section in vmlinux.allocated_sections if section.executable)
    return {base + start for (start,) in struct.iter_unpack(f"{vmlinux.struct_order}I12x", content)}
