"""Places in a module's text that are in no function: padding, linker stubs, the bytes after the last function."""

from __future__ import annotations

from itertools import pairwise

from harness.core.errors import UnmappedError
from harness.landing.code.instructions import instruction_starts_in_bytes
from harness.landing.layout import Layout
from harness.landing.site import Site

# The smallest page of all architectures. A larger page also ends where one of this size ends.
_PAGE = 4096
# The size of last_mapped_word_site().
WORD = 4
_SEPARATE_TEXT = (6, 4)
# No architecture has a shorter linker stub in a module (struct stub_entry, arch/parisc/kernel/module.c).
_STUB = 8


def sites_behind_functions(layout: Layout, module: str) -> list[Site]:
    """The first byte after each function of a module that is not directly followed by another function.

    The last function is one of them. On ARM there is no other, because nothing is between functions.
    """
    found = [site.at_offset(end - start) for start, end, following, site in _gaps(layout, module) if end < following]
    start, end, last = _functions(layout, module)[-1]
    named_once = {symbol.name for symbol in layout.targets[module].functions_named_once}
    return [*found, last.at_offset(end - start)] if last.symbol in named_once and end % _PAGE else found


def linker_stub_sites_before_functions(layout: Layout, module: str) -> list[Site]:
    """The last linker stub before each section of functions, without the first section, which no function precedes."""
    return [
        site.at_offset(following - _STUB - start)
        for start, end, following, site in _gaps(layout, module)
        if end + _STUB <= following
    ]


def last_mapped_word_site(layout: Layout, module: str) -> Site:
    """The last four bytes of the module's text, which is mapped in whole pages with zeros after the last function."""
    start, end, site = _functions(layout, module)[-1]
    return site.at_offset((end | _PAGE - 1) + 1 - WORD - start)


def address_below_symbols(layout: Layout, module: str) -> int:
    """An address before every symbol of a module: in the stubs of its first section, or outside of the module."""
    return min(layout.targets[module].sections.values()) - _STUB


def has_text_pages_of_its_own(layout: Layout) -> bool:
    """True if the kernel fills up the last page of a module's text (layout_sections(), kernel/module/main.c, 6.1).

    Since 6.4 each kind of memory of a module is allocated alone, in whole pages (module_memory_alloc()).
    """
    return layout.guest.image.version >= _SEPARATE_TEXT or "CONFIG_STRICT_MODULE_RWX" in layout.guest.image.config


def is_mapped_behind_text(layout: Layout, module: str) -> bool:
    """True if the page after a module's text is mapped.

    That is so where all of a module is one region; the page then holds the module's read-only data.
    """
    _, end, _ = _functions(layout, module)[-1]
    try:
        layout.guest.memory.read((end | _PAGE - 1) + 1, 1)
    except UnmappedError:
        return False
    return True


def last_mapped_word_starts_instruction(layout: Layout, module: str) -> bool:
    """True if `last_mapped_word_site` starts an instruction when memory is decoded from the start of the module's last
    function.

    The kernel decodes the same way (can_probe(), arch/x86/kernel/kprobes/core.c, 7.3). On x86 the zeros after the text
    decode to instructions of two bytes. If the text has an odd length, the word therefore starts inside of one.
    """
    start, end, _ = _functions(layout, module)[-1]
    word = (end | _PAGE - 1) + 1 - 4
    code = layout.guest.memory.read(start, word + 4 - start)
    return word - start in instruction_starts_in_bytes(code, layout.decoder)


def _gaps(layout: Layout, module: str) -> list[tuple[int, int, int, Site]]:
    """Start and end of each function with a unique name, the start of the next function, and the function's site."""
    named_once = {symbol.name for symbol in layout.targets[module].functions_named_once}
    return [
        (start, end, following, site)
        for (start, end, site), (following, _, _) in pairwise(_functions(layout, module))
        if site.symbol in named_once
    ]


def _functions(layout: Layout, module: str) -> list[tuple[int, int, Site]]:
    """Start, end and site of the module's functions that stay loaded: in order of address, one for each address."""
    found = {
        layout.symbol_address(symbol, module): (symbol.size, Site(symbol.name, module=module))
        for symbol in layout.functions(module)
    }
    return [(start, start + size, site) for start, (size, site) in sorted(found.items())]
