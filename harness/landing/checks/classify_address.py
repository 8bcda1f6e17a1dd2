"""Classifies an address: an instruction, the inside of one, a linker stub, padding, or no text at all."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable
from enum import Enum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.landing.code.function_selection import filter_functions, read_blacklist_ranges
from harness.landing.code.instructions import (
    instruction_starts_of_function,
    is_padding,
    is_padding_instruction_at,
    is_stub_at,
    offsets_inside_instructions,
    plain_instruction_offsets,
)
from harness.landing.code.patch_sites import LINKED, patch_sites
from harness.landing.layout import Layout
from harness.landing.site import Site

# Bytes before and after an address that are enough to classify it; no stub or nop is longer.
_REACH = 64


class AddressKind(Enum):
    """What is at an address where a probe is put."""

    INSTRUCTION = "instruction"
    """A function's instruction boundary."""
    MID_INSTRUCTION = "mid_instruction"
    STUB = "in_stub"
    """Code that the linker or the module loader made for far calls."""
    PADDING = "in_padding"
    """Between functions: nops, traps, zeros."""
    UNNAMED = "unnamed_code"
    """Code that belongs to no symbol with a size, such as hand-written entry code."""
    OUTSIDE = "outside_text"
    """Neither in the kernel's text nor in a loaded target's."""


class _Function(NamedTuple):
    """A function in the guest: its start and end address there, and its symbol."""

    start: int
    end: int
    module: str
    elf: Elf
    symbol: Symbol


class _Table:
    """Functions by address; if several start at one address, the longest is found."""

    def __init__(self, functions: Iterable[_Function]) -> None:
        self._functions = sorted(
            (found for found in functions if found.end > found.start), key=lambda found: (found.start, found.end)
        )
        self._starts = [found.start for found in self._functions]

    def before(self, address: int) -> _Function | None:
        """The last function that starts at or before an address."""
        index = bisect_right(self._starts, address) - 1
        return self._functions[index] if index >= 0 else None


class AddressClassifier:
    """The text of one guest's kernel and of the targets that are loaded in it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._decoder = layout.guest.architecture.kprobe_traits.decoder

    def classify(self, address: int) -> AddressKind:
        """Classify an address."""
        text = next((text for text in self._texts if address in text), None)
        if text is None:
            return AddressKind.OUTSIDE
        before = self._before(address)
        if before is None or address >= before.end:
            return self._between(max(before.end if before else 0, text.start), address)
        offset = address - before.start
        if offset not in self._boundaries(before.elf, before.symbol):
            return AddressKind.MID_INSTRUCTION
        tail = before.elf.function_bytes(before.symbol)[offset:] if before.symbol.size_includes_padding else b""
        return AddressKind.PADDING if tail and is_padding(tail, self._decoder) else AddressKind.INSTRUCTION

    def function_site_at(self, address: int) -> Site | None:
        """The site at an address; None outside of functions, and in a function whose name is not unique."""
        found = self._before(address)
        if found is None or address >= found.end or self._named[found.module, found.symbol.name] > 1:
            return None
        return Site(found.symbol.name, address - found.start, module=found.module)

    def landing_pad_size_at(self, address: int) -> int:
        """The size of the landing pad at an address, which the kernel skips; 0 where no function of any name starts."""
        found = self._before(address)
        return self._layout.landing_pad_size_of(found.elf, found.symbol) if found and address == found.start else 0

    def describe_address(self, address: int) -> str:
        """The function at or before an address and the distance from its begin, empty before the first function."""
        found = self._before(address)
        return f"{found.symbol.name}+{address - found.start:#x}" if found else ""

    def is_site_safe_to_probe(self, site: Site) -> bool:
        """True if the kernel accepts a probe on the site and steps it correctly for every task that runs the function.

        That is so if neither the instruction that the probe lands on nor the next one, on which a mutant puts its
        probe, changes the flow of control. The file does not show that of an instruction that the kernel replaces, so
        none of their bytes may be one that the kernel patches.
        """
        address = self._layout.probe_address(site)
        if any(start <= address < end for start, end in self._blacklist):
            return False
        elf, symbol = self._layout.elf_and_symbol(site)
        lands = address - self._layout.symbol_address(symbol, site.module)
        # The last offset is where the next instruction ends.
        from_there = sorted(offset for offset in self._boundaries(elf, symbol) if offset >= lands)
        ahead = [*from_there, symbol.size][:3]
        if ahead[0] != lands or len(ahead) < 3:
            return False
        place = LINKED if elf.linked else symbol.section
        if patch_sites(elf, ftrace=False).patched_offsets(place, symbol.address + lands, ahead[2] - lands):
            return False
        return set(ahead[:2]) <= plain_instruction_offsets(elf, symbol, self._decoder)

    def is_inside_instruction(self, address: int) -> bool:
        """True if an address is inside of an instruction that nothing patches."""
        found = self._before(address)
        if found is None or address >= found.end:
            return False
        return address - found.start in offsets_inside_instructions(found.elf, found.symbol, self._decoder)

    def _before(self, address: int) -> _Function | None:
        """The last function that starts at or before an address, in the kernel's text or in the targets'."""
        if address not in self._texts[0]:
            return self._modules.before(address)
        slide = self._layout.slide
        linked = _as_linked(self._layout.kernel).before(address - slide)
        return linked and linked._replace(start=linked.start + slide, end=linked.end + slide)

    def _between(self, end: int, address: int) -> AddressKind:
        """Classify an address that is in no function; the last function before it ends at `end`."""
        start = max(end, address - _REACH)
        code = self.code(start, address - start + _REACH)
        if is_stub_at(code, address - start, self._decoder):
            return AddressKind.STUB
        return (
            AddressKind.PADDING
            if is_padding_instruction_at(code, address - start, self._decoder)
            else AddressKind.UNNAMED
        )

    def code(self, address: int, size: int) -> bytes:
        """Kernel text as its ELF file has it; a module's as it is in the guest, because its loader makes stubs."""
        if address in self._texts[0]:
            return self._layout.kernel.bytes_at(address - self._layout.slide, size)
        return self._layout.guest.memory.read(address, size)

    def _boundaries(self, elf: Elf, symbol: Symbol) -> Collection[int]:
        key = (elf.path, symbol.address, symbol.section)
        if key not in self._known:
            self._known[key] = frozenset(instruction_starts_of_function(elf, symbol, self._decoder))
        return self._known[key]

    @cached_property
    def _blacklist(self) -> list[tuple[int, int]]:
        return read_blacklist_ranges(self._layout.guest)

    @cached_property
    def _known(self) -> dict[tuple[Path, int, str], frozenset[int]]:
        return {}

    @cached_property
    def _texts(self) -> list[range]:
        """The address range of the kernel's text, then of each target's text, from first section to last."""
        found = [self._layout.text_range]
        for target in self._layout.targets.values():
            loaded = [
                (target.sections[name], target.elf.sections_by_name[name].size) for name in target.lasting_text_sections
            ]
            found.append(range(min(loaded)[0], max(start + size for start, size in loaded)))
        return found

    @cached_property
    def _modules(self) -> _Table:
        """Every function in the targets' texts."""
        return _Table(
            _Function(start, start + symbol.size, module, target.elf, symbol)
            for module, target in self._layout.targets.items()
            for symbol in target.functions(target.sections)
            if any((start := self._layout.symbol_address(symbol, module)) in text for text in self._texts[1:])
        )

    @cached_property
    def _named(self) -> Counter[tuple[str, str]]:
        """The number of symbols with a name, by module and name."""
        owners = self._owners.items()
        return Counter((module, each.name) for module, elf in owners for each in elf.symbols if each.section)

    @property
    def _owners(self) -> dict[str, Elf]:
        """The ELF files by module name; the kernel's name is empty."""
        return {"": self._layout.kernel, **{name: each.elf for name, each in self._layout.targets.items()}}


@lru_cache(maxsize=8)
def _as_linked(kernel: Elf) -> _Table:
    """Every function of a kernel's text, at its link address; all guests of that kernel share this table."""
    text = kernel.text_range
    return _Table(
        _Function(symbol.address, symbol.address + symbol.size, "", kernel, symbol)
        for symbol in filter_functions(kernel)
        if symbol.address in text
    )
