"""Probes that the kernel accepted past the end of their function, and what is at their address.

register_kprobe() adds the offset to the symbol's address and does not check the size of the symbol (_kprobe_addr(),
kernel/kprobes.c, 6.1). It therefore accepts an offset past the end of a function if an instruction begins there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.landing.landing_judgment import Landing, Missed
from harness.landing.layout import Layout
from harness.landing.site import Site


class LoadedFunction(NamedTuple):
    """A loaded function; `start` and `end` are addresses."""

    start: int
    end: int
    name: str


def describe_outside_address(layout: Layout, site: Site, address: int) -> str:
    """Describe an address outside of the site's function; "" for an address inside.

    Returns `next symbol NAME+0xOFF` for another function of the same module or of the kernel, `stub before SECTION`
    where the module loader puts stubs, `padding after NAME` for anything else between functions.
    """
    _, symbol = layout.elf_and_symbol(site)
    start = layout.symbol_address(symbol, site.module)
    if start <= address < start + symbol.size:
        return ""
    before = max(each for each in _loaded(layout, site.module) if each.start <= address)
    if address < before.end:
        return f"next symbol {before.name}+{address - before.start:#x}"
    stub = site.module and layout.guest.traits.module_stubs
    return (stub and _stub(layout, site.module, address)) or f"padding after {before.name}"


def is_in_any_function(layout: Layout, address: int) -> bool:
    """True if an address is in a function of the kernel or of a loaded target."""
    return any(each.start <= address < each.end for module in ("", *layout.targets) for each in _loaded(layout, module))


def next_function(layout: Layout, site: Site) -> LoadedFunction:
    """The function that follows the site's function in memory, in the kernel or in the same module."""
    start = layout.probe_address(site.at_offset(0))
    return min(each for each in _loaded(layout, site.module) if each.start > start)


def expect_escape(landing: Landing, into: str) -> None:
    """Check that all witnesses agree, and that the landing is reported as escaped into `into`.

    Raises Missed with the witness table.
    """
    if landing.disagreement:
        raise Missed(f"{landing.site}: {landing.disagreement}\n\n{landing.format_witness_table()}")
    if not landing.escaped_into.startswith(into) or not landing.complaint:
        raise Missed(f"{landing.site}: not reported as escaped into {into!r}\n\n{landing.format_witness_table()}")


def _loaded(layout: Layout, module: str) -> Iterator[LoadedFunction]:
    """Every function of the kernel, or of a module, whose memory is not freed."""
    slide = layout.slide
    for symbol in layout.functions(module, preambles=False, empty=False):
        start = layout.symbol_address(symbol, module) if module else symbol.address + slide
        yield LoadedFunction(start, start + symbol.size, symbol.name)


def _stub(layout: Layout, module: str, address: int) -> str:
    """`stub before SECTION` for an address between sections; "" for an address in a section."""
    elf, sections = layout.targets[module].elf, layout.targets[module].sections
    if any(start <= address < start + elf.sections_by_name[name].size for name, start in sections.items()):
        return ""
    _, following = min((start, name) for name, start in sections.items() if start > address)
    return f"stub before {following}"
