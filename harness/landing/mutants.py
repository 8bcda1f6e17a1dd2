"""Probes broken on purpose: every check must catch its mutants on every VM, or it proves nothing there.

A mutant claims the site it was asked for and does something else; the check that holds for the honest probe must raise
Missed for the mutant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.core.errors import GuestError, PinpointError
from harness.landing import by_hand, data, section_sites
from harness.landing.code.instructions import straight
from harness.landing.data import Datum
from harness.landing.layout import Layout
from harness.landing.probe_module import Request
from harness.landing.site import Site

GOOD_SPEC = "clock_t_to_jiffies"
_VICTIM = "pinpoint_leaf"
# So many sites the probe module can shift (probes/probe/mutants.c); those behind them stay honest.
_SHIFTS = 64


def _no_parameters(_: Layout, __: Sequence[Site]) -> list[str]:
    return []


def _honest_bad_spec(spec: str) -> str:
    return spec


def _one_instruction_off(layout: Layout, sites: Sequence[Site]) -> list[str]:
    shifts = ",".join(str(layout.following(site).offset - site.offset) for site in sites[:_SHIFTS])
    return ["mutant=one-instruction-off", f"mutant_shift={shifts}"]


def _next_symbol(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """Each probe goes to the first place of the next function in memory that a probe may stand on."""
    shifts = []
    for site in sites:
        _, symbol = layout.symbol(site)
        shifts.append(str(next_entry(layout, site) - layout.base(symbol, site.module) - site.offset))
    return ["mutant=next-symbol", f"mutant_shift={','.join(shifts)}"]


def _clobbers(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """The probe on the leaf's entry changes its argument: a number, where others have pointers to crash by."""
    argument = layout.guest.architecture.kprobes.first_argument
    entry = layout.address(Site(_VICTIM, module=sites[0].module))
    victim = next(index for index, site in enumerate(sites) if layout.address(site) == entry)
    return ["mutant=clobbers", f"mutant_clobber={argument}", f"mutant_victim={victim}"]


def _only_reported(_: Layout, __: Sequence[Site]) -> list[str]:
    return ["mutant=report-without-registering"]


@dataclass(frozen=True)
class Mutant:
    """What a broken probe does instead.

    `parameters` make the probe module itself wrong (probes/probe/mutants.c); `bad_spec` maps the spec to the one really
    tried where a refusal is expected; `stays` leaves the probe module loaded when it should go; `arms_anyway` drops the
    parameters that the case passes to the probe module; `stale_snapshot` is no broken probe but a broken harness, which
    takes memory as it was before for memory as it is; `relocates` loads a module with addresses of its own instead of
    the one that was asked for. Of other checks: `converts_too_far` adds so many bytes to the offset of a converted
    address; `places` puts a datum elsewhere than the ELF files do; `reads_beyond` reads what stands behind a datum.
    """

    parameters: Callable[[Layout, Sequence[Site]], list[str]] = _no_parameters
    bad_spec: Callable[[str], str] = _honest_bad_spec
    stays: bool = False
    arms_anyway: bool = False
    converts_too_far: int = 0
    places: Callable[[Layout, Datum], int] | None = None
    reads_beyond: bool = False
    stale_snapshot: bool = False
    relocates: Callable[[Layout, Sequence[Site]], Request] | None = None


HONEST = Mutant()

MUTANTS: dict[str, Mutant] = {
    "one-instruction-off": Mutant(parameters=_one_instruction_off),
    "next-symbol": Mutant(parameters=_next_symbol),
    "only-reported": Mutant(parameters=_only_reported),
    "text-base": Mutant(relocates=by_hand.from_text_base),
    "other-build": Mutant(relocates=by_hand.of_other_build),
    "stale-offset": Mutant(relocates=section_sites.of_any_build),
    "previous-instance": Mutant(relocates=section_sites.of_previous_instance),
    "blind-to-returns": Mutant(parameters=lambda _, __: ["mutant=blind-to-returns"]),
    "clobbers": Mutant(parameters=_clobbers),
    "registers-anyway": Mutant(bad_spec=lambda _: GOOD_SPEC),
    "unknown-name": Mutant(bad_spec=lambda _: "pinpoint_unknown"),
    "stays-registered": Mutant(stays=True),
    "arms-anyway": Mutant(arms_anyway=True),
    # Farther than any landing pad: within one there is nowhere to go astray.
    "converts-too-far": Mutant(converts_too_far=8),
    "next-data-symbol": Mutant(places=data.by_next_symbol),
    "data-by-text-base": Mutant(places=data.by_text_base),
    "reads-next-word": Mutant(reads_beyond=True),
    "stale-snapshot": Mutant(stale_snapshot=True),
}


def named(name: str) -> Mutant:
    """The mutant of a cell: the honest one for a cell that has none, or one that breaks no probe (harness/pinning)."""
    return MUTANTS.get(name, HONEST)


def next_entry(layout: Layout, site: Site) -> int:
    """The address of the first place a probe may stand on in the next function of the site's module, or of the kernel.

    Raises GuestError when no function follows.
    """
    elf, own = layout.symbol(site)
    here = layout.base(own, site.module)
    decoder = layout.guest.architecture.kprobes.decoder
    for start, symbol in sorted((layout.base(each, site.module), each) for each in layout.functions(site.module)):
        if start <= here:
            continue
        try:
            offsets = straight(elf, symbol, decoder)
        except PinpointError:  # data among code, which no disassembler reads
            continue
        if offsets:
            return start + offsets[0]
    raise GuestError(f"no function follows {site}", where=layout.guest.name)
