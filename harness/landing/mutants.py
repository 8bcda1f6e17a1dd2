"""Probes broken on purpose: every check must catch its mutants on every VM, or it proves nothing there.

A mutant claims the site it was asked for and does something else; the check that holds for the honest probe must raise
Missed for the mutant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.landing.instructions import boundaries
from harness.landing.layout import Layout
from harness.landing.site import Site

GOOD_SPEC = "clock_t_to_jiffies"


def _honest_spec(_: Layout, site: Site) -> str:
    return site.spec


def _honest_bad_spec(spec: str) -> str:
    return spec


def _next_instruction(layout: Layout, site: Site) -> str:
    elf, symbol = layout.symbol(site)
    decoder = layout.guest.image.recipe.architecture.probing.decoder
    following = [offset for offset in boundaries(elf, symbol, decoder) if offset > site.offset]
    return site.at(following[0]).spec


@dataclass(frozen=True)
class Mutant:
    """What a broken probe does instead.

    `asks` gives the spec really registered for a site; `bad_spec` the one really tried where a refusal is expected;
    `stays` leaves the probe module loaded when it should go; `relocates_by_hand` takes text base + file offset for a
    module's symbol instead of its section.
    """

    asks: Callable[[Layout, Site], str] = _honest_spec
    bad_spec: Callable[[str], str] = _honest_bad_spec
    stays: bool = False
    relocates_by_hand: bool = False


HONEST = Mutant()

MUTANTS: dict[str, Mutant] = {
    "one-instruction-off": Mutant(asks=_next_instruction),
    "text-base": Mutant(relocates_by_hand=True),
    "registers-anyway": Mutant(bad_spec=lambda _: GOOD_SPEC),
    "stays-registered": Mutant(stays=True),
}
