"""Where no function is and a text still goes on: padding, linker stubs, what is behind the last function."""

from __future__ import annotations

from itertools import pairwise

from harness.guest.memory import UnmappedError
from harness.landing.code.instructions import starts_in
from harness.landing.layout import Layout
from harness.landing.site import Site

_PAGE = 4096
# Every architecture's linker stub in a module is at least as long (arch/parisc/kernel/module.c, struct stub_entry).
_STUB = 8


def behind_functions(layout: Layout, module: str) -> list[Site]:
    """The first byte behind each function of a module that no other follows at once."""
    return [site.at(end - start) for start, end, following, site in _gaps(layout, module) if end < following]


def stubs(layout: Layout, module: str) -> list[Site]:
    """The last linker stub in front of each section of functions, but the first section's, which nothing is before."""
    return [
        site.at(following - _STUB - start)
        for start, end, following, site in _gaps(layout, module)
        if end + _STUB <= following
    ]


def last_word(layout: Layout, module: str) -> Site:
    """The last four bytes of the module's text as it is mapped: by whole pages, zeros behind the last function."""
    start, end, site = _functions(layout, module)[-1]
    return site.at((end | _PAGE - 1) + 1 - 4 - start)


def below(layout: Layout, module: str) -> int:
    """An address in front of everything of a module that has a symbol: in the first section's stubs, or outside."""
    return min(layout.targets[module].sections.values()) - _STUB


def mapped_behind(layout: Layout, module: str) -> bool:
    """Is there memory on the page behind a module's text: its own read-only data, where all of it is one region?"""
    _, end, _ = _functions(layout, module)[-1]
    try:
        layout.guest.memory.read((end | _PAGE - 1) + 1, 1)
    except UnmappedError:
        return False
    return True


def last_word_starts_instruction(layout: Layout, module: str) -> bool:
    """True when decoding the module's memory from its last function on reaches `last_word` at an instruction's start.

    The kernel decodes the same way (can_probe(), arch/x86/kernel/kprobes/core.c, 7.3). The zeros behind the text are
    instructions of two bytes on x86, so that a text of an odd length makes the word the inside of one.
    """
    start, end, _ = _functions(layout, module)[-1]
    word = (end | _PAGE - 1) + 1 - 4
    code = layout.guest.memory.read(start, word + 4 - start)
    return word - start in starts_in(code, layout.decoder)


def _gaps(layout: Layout, module: str) -> list[tuple[int, int, int, Site]]:
    """Start and end of each function, where the next one starts, and its site, if its name is enough to find it by."""
    named_once = {symbol.name for symbol in layout.targets[module].named_once}
    return [
        (start, end, following, site)
        for (start, end, site), (following, _, _) in pairwise(_functions(layout, module))
        if site.symbol in named_once
    ]


def _functions(layout: Layout, module: str) -> list[tuple[int, int, Site]]:
    """Start, end and site of the module's functions that stay loaded, by address, one of each address."""
    found = {
        layout.base(symbol, module): (symbol.size, Site(symbol.name, module=module))
        for symbol in layout.functions(module)
    }
    return [(start, start + size, site) for start, (size, site) in sorted(found.items())]
