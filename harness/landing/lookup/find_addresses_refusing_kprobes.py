"""Finds places at which a kernel refuses kprobes, from the tables in its ELF file: self-patched code and traps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate

from harness.guest.guest import Guest
from harness.landing.code.bug_table import linked_bug_addresses
from harness.landing.code.function_selection import read_blacklist_ranges
from harness.landing.code.patch_sites import module_table_entries, table_addresses
from harness.landing.code.patch_tables import JUMPS, STATIC_CALLS
from harness.landing.layout import Layout, LoadedTarget
from harness.landing.target import Target


def jump_label_addresses(layout: Layout) -> list[int]:
    """The addresses of the static branches in the kernel's text."""
    return _loaded(layout, table_addresses(layout.kernel, JUMPS))


def static_call_addresses(layout: Layout) -> list[int]:
    """The addresses of the static calls in the kernel's text."""
    return _loaded(layout, table_addresses(layout.kernel, STATIC_CALLS))


def module_jump_label_addresses(loaded: Target | LoadedTarget) -> list[int]:
    """The addresses of a module's static branches in sections that stay loaded."""
    found = module_table_entries(loaded.elf, JUMPS)
    return [loaded.sections[section] + place for section, place in found if section in loaded.lasting_sections]


def bug_trap_addresses(layout: Layout) -> list[int]:
    """The addresses of the traps of BUG() and WARN() in the kernel's text."""
    return _loaded(layout, linked_bug_addresses(layout.kernel, layout.guest.image.config))


def unlisted_parts_of_blacklisted_functions(layout: Layout, guest: Guest) -> list[int]:
    """The starts of parts that the compiler split off blacklisted functions, if they are not blacklisted themselves."""
    blacklisted, slide = _in_any_of(read_blacklist_ranges(guest)), layout.slide
    listed = {symbol.name for symbol in layout.kernel.symbols if blacklisted(symbol.address + slide)}
    halves = (
        symbol.address
        for symbol in layout.kernel.symbols
        if symbol.kind == "func" and "." in symbol.name and symbol.name.partition(".")[0] in listed
    )
    return [place for place in _loaded(layout, halves) if not blacklisted(place)]


def _in_any_of(ranges: Iterable[tuple[int, int]]) -> Callable[[int], bool]:
    """Return a function that returns True for an address in one of the ranges, which may overlap."""
    found = sorted(ranges)
    starts = [start for start, _ in found]
    # The furthest end of this range and all before it.
    ends = list(accumulate((end for _, end in found), max))

    def contains(address: int) -> bool:
        last = bisect_right(starts, address) - 1
        return last >= 0 and address < ends[last]

    return contains


def _loaded(layout: Layout, linked: Iterable[int]) -> list[int]:
    """The load addresses of link addresses, sorted, without duplicates, restricted to the kernel's text."""
    found = {address + layout.slide for address in linked}
    return sorted(address for address in found if address in layout.text_range)
