"""Probes that the kernel accepted past the end of their function, and what is there instead.

register_kprobe() adds the offset to the symbol's address and looks no further at the symbol (_kprobe_addr(),
kernel/kprobes.c, 6.1), so that an offset behind a function's end is taken wherever an instruction begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.landing.landing import Landing, Missed
from harness.landing.layout import Layout
from harness.landing.site import Site


class Function(NamedTuple):
    """A function as it is loaded: `start` and `end` are addresses."""

    start: int
    end: int
    name: str


def describe(layout: Layout, site: Site, address: int) -> str:
    """What stands at an address outside of the site's function; "" for one inside.

    `next symbol NAME+0xOFF` for another function of the same module or of the kernel, `stub before SECTION` where the
    module loader puts stubs, `padding behind NAME` for what else lies between.
    """
    _, symbol = layout.symbol(site)
    start = layout.base(symbol, site.module)
    if start <= address < start + symbol.size:
        return ""
    before = max(each for each in _loaded(layout, site.module) if each.start <= address)
    if address < before.end:
        return f"next symbol {before.name}+{address - before.start:#x}"
    stub = site.module and layout.guest.traits.module_stubs
    return (stub and _stub(layout, site.module, address)) or f"padding behind {before.name}"


def in_function(layout: Layout, address: int) -> bool:
    """True when a function of the kernel or of a loaded target is at the address."""
    return any(each.start <= address < each.end for module in ("", *layout.targets) for each in _loaded(layout, module))


def next_function(layout: Layout, site: Site) -> Function:
    """The function that follows the site's in memory, in the kernel or in the same module."""
    start = layout.address(site.at(0))
    return min(each for each in _loaded(layout, site.module) if each.start > start)


def expect_escape(landing: Landing, into: str) -> None:
    """Demand that all witnesses agree, and that the landing is reported as escaped into `into`.

    Raises Missed with the witness table.
    """
    if landing.disagreement:
        raise Missed(f"{landing.site}: {landing.disagreement}\n\n{landing.table()}")
    if not landing.escaped.startswith(into) or not landing.complaint:
        raise Missed(f"{landing.site}: not reported as escaped into {into!r}\n\n{landing.table()}")


def _loaded(layout: Layout, module: str) -> Iterator[Function]:
    """Every function of the kernel or of a module whose memory was not freed."""
    for symbol in layout.functions(module, preambles=False, empty=False):
        start = layout.base(symbol, module)
        yield Function(start, start + symbol.size, symbol.name)


def _stub(layout: Layout, module: str, address: int) -> str:
    """The section before which an address is that is in none, as `stub before SECTION`; "" for one that is in one."""
    elf, sections = layout.targets[module].elf, layout.targets[module].sections
    if any(start <= address < start + elf.sections[name].size for name, start in sections.items()):
        return ""
    _, following = min((start, name) for name, start in sections.items() if start > address)
    return f"stub before {following}"
