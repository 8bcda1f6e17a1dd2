"""Probes broken on purpose: every check must catch its mutants on every VM, or it proves nothing there.

A mutant claims the requested site and does something else. A check that passes for the honest probe must raise Missed
for the mutant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core.errors import GuestError, PinpointError
from harness.landing import clang_symbols, precompiled_sites, systemtap_relocation_by_hand
from harness.landing.code.instructions import decode_function, once_per_call_boundaries
from harness.landing.layout import Layout
from harness.landing.lookup import data_symbol_address
from harness.landing.lookup.data_symbol_address import Datum
from harness.landing.probe_module import ProbeModuleRequest
from harness.landing.site import Site

# A function that ftrace does not trace: a kernel may refuse a probe on the entry of one that it traces.
GOOD_SPEC = "ktime_get_mono_fast_ns"
_VICTIM = "pinpoint_leaf"
# The number of sites that the probe module can shift (probes/probe/mutants.c); later sites stay honest.
_SHIFTS = 64


def _no_parameters(_: Layout, __: Sequence[Site]) -> list[str]:
    return []


def _honest_bad_spec(spec: str) -> str:
    return spec


def _shifts(layout: Layout, sites: Sequence[Site]) -> str:
    """The bytes from each site to the next instruction on which the kernel accepts a probe."""
    return ",".join(
        str(_next_address(layout, site) - layout.symbol_start(site) - site.offset) for site in sites[:_SHIFTS]
    )


def _next_address(layout: Layout, site: Site) -> int:
    """The address of that instruction, in the next function if the site's has none."""
    following = layout.next_accepted_site(site)
    return layout.symbol_start(site) + following.offset if following else address_in_next_function(layout, site)


def _distances(layout: Layout, sites: Sequence[Site], sign: int = 1) -> str:
    """The same distance from the address where the probe must land, which is after a landing pad."""
    return ",".join(str(sign * (_next_address(layout, site) - layout.probe_address(site))) for site in sites[:_SHIFTS])


def _one_instruction_off(layout: Layout, sites: Sequence[Site]) -> list[str]:
    return ["mutant=one-instruction-off", f"mutant_shift={_shifts(layout, sites)}"]


def _lies(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """Each probe is one instruction off, and the module reports the address of the site."""
    return ["mutant=lies", f"mutant_shift={_shifts(layout, sites)}", f"mutant_claim={_distances(layout, sites, -1)}"]


def _claims(name: str) -> Callable[[Layout, Sequence[Site]], list[str]]:
    """Each probe is at its site; what the module adds to an address is the distance to the next instruction."""
    return lambda layout, sites: [f"mutant={name}", f"mutant_claim={_distances(layout, sites)}"]


def _unlisted(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """Each probe is at its site, and one more is on the next instruction after the last site."""
    distance = _next_address(layout, sites[-1]) - layout.probe_address(sites[0])
    return ["mutant=also-elsewhere", f"mutant_claim={distance}"]


def _next_symbol(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """Put each probe on the first probable place of the next function in memory."""
    shifts = []
    for site in sites:
        _, symbol = layout.elf_and_symbol(site)
        shifts.append(
            str(address_in_next_function(layout, site) - layout.symbol_address(symbol, site.module) - site.offset)
        )
    return ["mutant=next-symbol", f"mutant_shift={','.join(shifts)}"]


def _next_of_its_kind(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """Put each probe on the function's next instruction of the same kind. Raises GuestError if there is none."""
    shifts = []
    for site in sites:
        elf, symbol = layout.elf_and_symbol(site)
        code = decode_function(elf, symbol, layout.decoder)
        own = next(each for each in code if each.offset == site.offset)
        later = next((each for each in code if each.offset > site.offset and each.kind is own.kind), None)
        if later is None:
            raise GuestError(f"{site} is the last {own.kind.value} of its function", where=layout.guest.name)
        shifts.append(str(later.offset - site.offset))
    return ["mutant=next-symbol", f"mutant_shift={','.join(shifts)}"]


def _clobbers(layout: Layout, sites: Sequence[Site]) -> list[str]:
    """Let the probe on the leaf's entry change its argument, which is a number; a changed pointer would crash."""
    argument = layout.guest.architecture.kprobe_traits.first_argument_pt_regs_offset
    entry = layout.probe_address(layout.entry_site(Site(_VICTIM, module=sites[0].module)))
    victim = next(index for index, site in enumerate(sites) if layout.probe_address(site) == entry)
    return ["mutant=clobbers", f"mutant_clobber={argument}", f"mutant_victim={victim}"]


def _only_reported(_: Layout, __: Sequence[Site]) -> list[str]:
    return ["mutant=report-without-registering"]


@dataclass(frozen=True)
class Mutant:
    """What a broken probe does instead.

    - `parameters` are parameters that make the probe module wrong (probes/probe/mutants.c).
    - `replace_refused_spec` maps a spec for which a refusal is expected to the spec that is tried instead.
    - `replaces_last_spec_only` leaves all other specs of a list as they are.
    - `stays_loaded` leaves the probe module loaded when it should be unloaded.
    - `drops_case_parameters` drops the parameters that the case passes to the probe module.
    - `stale_snapshot` is a defect of the harness: it uses memory from before registration as memory during it.
    - `must_register_elsewhere` is True if each of its probes must be registered, at another address than its site's.
    - `stale_list` is a defect of the harness: it uses the list from before registration as the list during it.
    - `unlists_second` is a defect of the list: it lacks a probe that was registered besides those of the sites.
    - `relocation` requests a module and addresses of its own instead of those that the case requests.
    - `has_instance_per_level` registers a return probe with an instance for each level of a recursion, not with one.
    - `converted_offset_error` adds this number of bytes to the offset of a converted address.
    - `compute_datum_address` computes an address for a datum that differs from the ELF files.
    - `explains_all` is a defect of the harness: it has a reason for each refused site of a sweep.
    - `reserves_all` is a defect of the harness: a table of the kernel reserves each site of a sweep.
    - `misplaces_one_by_hand` relocates the first function of a batch by hand to another instruction.
    - `exchanges_symbols` is a defect of the harness: two functions have each other's addresses, "exported" or "local".
    - `reads_after_datum` reads the bytes after a datum.
    - `patches_another` builds a live patch for another function.
    - `shrinks_module` builds a module so small that each of its branches reaches its stub.
    """

    parameters: Callable[[Layout, Sequence[Site]], list[str]] = _no_parameters
    replace_refused_spec: Callable[[str], str] = _honest_bad_spec
    replaces_last_spec_only: bool = False
    stays_loaded: bool = False
    drops_case_parameters: bool = False
    has_instance_per_level: bool = False
    converted_offset_error: int = 0
    compute_datum_address: Callable[[Layout, Datum], int] | None = None
    reads_after_datum: bool = False
    shrinks_module: bool = False
    patches_another: bool = False
    explains_all: bool = False
    reserves_all: bool = False
    misplaces_one_by_hand: bool = False
    exchanges_symbols: Literal["", "exported", "local"] = ""
    stale_snapshot: bool = False
    stale_list: bool = False
    unlists_second: bool = False
    must_register_elsewhere: bool = False
    relocation: Callable[[Layout, Sequence[Site]], ProbeModuleRequest] | None = None


HONEST = Mutant()

MUTANTS: dict[str, Mutant] = {
    "one-instruction-off": Mutant(parameters=_one_instruction_off, must_register_elsewhere=True),
    "next-symbol": Mutant(parameters=_next_symbol, must_register_elsewhere=True),
    "lies": Mutant(parameters=_lies),
    "misreports": Mutant(parameters=_claims("misreports")),
    "wrong-ip": Mutant(parameters=_claims("wrong-ip")),
    "also-elsewhere": Mutant(parameters=_claims("also-elsewhere")),
    "unlisted": Mutant(parameters=_unlisted, unlists_second=True),
    "deaf": Mutant(parameters=lambda _, __: ["mutant=deaf"]),
    "stale-list": Mutant(stale_list=True),
    "only-reported": Mutant(parameters=_only_reported),
    "text-base": Mutant(relocation=systemtap_relocation_by_hand.request_from_text_base),
    "other-build": Mutant(relocation=systemtap_relocation_by_hand.request_for_other_build),
    "stale-offset": Mutant(relocation=precompiled_sites.request_without_build_check),
    "previous-instance": Mutant(relocation=precompiled_sites.request_at_previous_sections),
    "blind-to-returns": Mutant(parameters=lambda _, __: ["mutant=blind-to-returns"]),
    "next-of-its-kind": Mutant(parameters=_next_of_its_kind, must_register_elsewhere=True),
    "clobbers": Mutant(parameters=_clobbers),
    "registers-anyway": Mutant(replace_refused_spec=lambda _: GOOD_SPEC),
    "registers-last": Mutant(replace_refused_spec=lambda _: GOOD_SPEC, replaces_last_spec_only=True),
    "unknown-name": Mutant(replace_refused_spec=lambda _: "pinpoint_unknown"),
    "stays-registered": Mutant(stays_loaded=True),
    "arms-anyway": Mutant(drops_case_parameters=True),
    "instance-per-level": Mutant(has_instance_per_level=True),
    # More than the size of any landing pad: an offset within a landing pad would still land at the right place.
    "converts-too-far": Mutant(converted_offset_error=8),
    "next-data-symbol": Mutant(compute_datum_address=data_symbol_address.address_of_next_symbol),
    "data-by-text-base": Mutant(compute_datum_address=data_symbol_address.address_by_text_base),
    "reads-next-word": Mutant(reads_after_datum=True),
    "explains-all": Mutant(replace_refused_spec=lambda _: "pinpoint_unknown", explains_all=True),
    "reserves-all": Mutant(reserves_all=True),
    "misplaces-one": Mutant(misplaces_one_by_hand=True),
    "swapped-symbols": Mutant(exchanges_symbols="exported"),
    "swapped-local-symbols": Mutant(exchanges_symbols="local"),
    "from-preamble": Mutant(relocation=clang_symbols.request_without_preambles),
    "keeps-suffix": Mutant(relocation=clang_symbols.request_by_names_in_file),
    "stale-snapshot": Mutant(stale_snapshot=True),
    "patches-another": Mutant(patches_another=True),
    "within-reach": Mutant(shrinks_module=True),
}


def mutant_or_honest(name: str) -> Mutant:
    """The mutant with this name; HONEST for a cell that has none, or one that breaks no probe (harness/pinning)."""
    return MUTANTS.get(name, HONEST)


def address_in_next_function(layout: Layout, site: Site) -> int:
    """The address of the first probable place in the function that follows the site's, in its module or the kernel.

    Raises GuestError if no function follows.
    """
    elf, own = layout.elf_and_symbol(site)
    here = layout.symbol_address(own, site.module)
    decoder = layout.guest.architecture.kprobe_traits.decoder
    for start, symbol in sorted(
        (layout.symbol_address(each, site.module), each) for each in layout.functions(site.module)
    ):
        if start <= here:
            continue
        try:
            offsets = once_per_call_boundaries(elf, symbol, decoder)
        except PinpointError:  # Data in the middle of code, which cannot be decoded.
            continue
        if offsets:
            return start + offsets[0]
    raise GuestError(f"no function follows {site}", where=layout.guest.name)
