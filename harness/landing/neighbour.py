"""The function that follows another one in memory."""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.elf import Symbol
from harness.core.errors import GuestError, PinpointError
from harness.landing.instructions import straight
from harness.landing.layout import Layout
from harness.landing.site import Site


def next_entry(layout: Layout, site: Site) -> int:
    """The address of the first place a probe may stand on in the next function of the site's module, or of the kernel.

    Raises GuestError when no function follows.
    """
    elf, own = layout.symbol(site)
    here = layout.base(own, site.module)
    decoder = layout.guest.image.recipe.architecture.probing.decoder
    for start, symbol in sorted(_loaded(layout, site.module)):
        if start <= here:
            continue
        try:
            offsets = straight(elf, symbol, decoder)
        except PinpointError:  # data among code, which no disassembler reads
            continue
        if offsets:
            return start + offsets[0]
    raise GuestError(f"no function follows {site}", where=layout.guest.name)


def _loaded(layout: Layout, module: str) -> Iterator[tuple[int, Symbol]]:
    """Every function in memory, with its address: of the module, or of the kernel."""
    elf = layout.targets[module].elf if module else layout.kernel
    kept = layout.targets[module].sections if module else elf.sections
    for symbol in elf.symbols:
        if symbol.kind == "func" and symbol.section in kept and not symbol.section.startswith(".init"):
            yield layout.base(symbol, module), symbol
