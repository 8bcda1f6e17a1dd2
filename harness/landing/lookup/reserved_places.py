"""Finds places at which a kernel refuses kprobes, from the tables in its ELF file: self-patched code and traps."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from harness.guest.guest import Guest
from harness.landing.code.function_selection import blacklist
from harness.landing.code.patch_sites import module_table_entries, table_addresses
from harness.landing.code.patch_tables import JUMPS
from harness.landing.layout import Layout
from harness.landing.target import Target

_STATIC_CALLS = "__start_static_call_sites"
_BUGS = ("__start___bug_table", "__stop___bug_table")


def jump_labels(layout: Layout) -> list[int]:
    """The addresses of the static branches in the kernel's text."""
    return _loaded(layout, table_addresses(layout.kernel, JUMPS))


def static_calls(layout: Layout) -> list[int]:
    """The addresses of the static calls in the kernel's text."""
    return _loaded(layout, table_addresses(layout.kernel, _STATIC_CALLS))


def module_jump_labels(target: Target) -> list[int]:
    """The addresses of a module's static branches in sections that stay loaded."""
    found = module_table_entries(target.elf, JUMPS)
    return [target.sections[section] + place for section, place in found if section in target.lasting_sections]


def bug_traps(layout: Layout) -> list[int]:
    """The addresses of the traps of BUG() and WARN() in the kernel's text.

    A row of the table begins with the place of the trap, as a distance from the row or as an address (struct bug_entry,
    include/asm-generic/bug.h, 6.1).
    """
    kernel, config = layout.kernel, layout.guest.image.config
    first, last = (kernel.symbols_named(name) for name in _BUGS)
    if not (first and last):
        return []
    relative = config.get("CONFIG_GENERIC_BUG_RELATIVE_POINTERS") == "y"
    verbose = config.get("CONFIG_DEBUG_BUGVERBOSE") == "y"
    row = ("iiHH" if verbose else "iH2x") if relative else ("IIHH" if verbose else "IH2x")
    start, order = first[0].address, kernel.struct_order
    form = struct.Struct(f"{order}{row}")
    content = kernel.bytes_at(start, last[0].address - start)
    rows = enumerate(form.iter_unpack(content[: len(content) // form.size * form.size]))
    return _loaded(layout, [place + (start + index * form.size if relative else 0) for index, (place, *_) in rows])


def parts_of_blacklisted(layout: Layout, guest: Guest) -> list[int]:
    """The starts of parts that the compiler split off blacklisted functions, if they are not blacklisted themselves."""
    ranges = [range(start, end) for start, end in blacklist(guest)]
    listed = {symbol.name for symbol in layout.kernel.symbols if _in_any(symbol.address + layout.slide, ranges)}
    halves = (
        symbol.address
        for symbol in layout.kernel.symbols
        if symbol.kind == "func" and "." in symbol.name and symbol.name.partition(".")[0] in listed
    )
    return [place for place in _loaded(layout, halves) if not _in_any(place, ranges)]


def _in_any(address: int, ranges: list[range]) -> bool:
    return any(address in each for each in ranges)


def _loaded(layout: Layout, linked: Iterable[int]) -> list[int]:
    """The load addresses of link addresses, sorted, without duplicates, restricted to the kernel's text."""
    found = {address + layout.slide for address in linked}
    return sorted(address for address in found if address in layout.text_range)
