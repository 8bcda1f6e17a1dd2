"""Registers the functions of a trial of relocation by hand, disabled, so that the kernel decides where each one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.landing import probe_module
from harness.landing.checks.classify_address import AddressKind
from harness.landing.checks.relocation_by_hand_trial import RelocatedFunction, Trial
from harness.landing.code.closest_symbol import parse_symbol_offset
from harness.landing.code.function_selection import evenly_spread
from harness.landing.landing_judgment import Missed
from harness.landing.mutants import HONEST, Mutant
from harness.landing.probe_module import ListedProbe, SiteReport
from harness.landing.site import Site
from harness.landing.sweep.documented_refusal_reasons import RefusalReasonFinder
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.systemtap_relocation_by_hand import UNARMED

# Functions that are registered without --sweep; the kernel takes some milliseconds for each under emulation.
_SPREAD = 400
_OF_A_MUTANT = 16
# Sites of one load of the probe module; more do not fit into one argument of insmod (MAX_ARG_STRLEN).
_AT_ONCE = 800
_MOST_LOADS = 4
_SHOWN = 10


@dataclass(frozen=True)
class RegisteredByHand:
    """How many functions were tried, and how many of these the kernel registered at the computed address."""

    tried: int
    registered: int


def prove_registered_by_hand(trial: Trial, depth: Depth, mutant: Mutant = HONEST) -> RegisteredByHand:
    """Register the functions at the addresses that relocation by hand computes in the guest; none is armed.

    A sample is registered at Depth.SAMPLE, else all. The kernel must put each kprobe at the computed address, and list
    it under the function at that address: under the intended one exactly where the trial counts a landing. It may
    refuse a function that lands only for a documented reason. Raises Missed.
    """
    functions = trial.functions if depth is not Depth.SAMPLE else evenly_spread(trial.functions, _SPREAD)
    functions = functions if mutant is HONEST else evenly_spread(functions, _OF_A_MUTANT)
    refusals = RefusalReasonFinder(trial.layout)
    at_once = min(_AT_ONCE, trial.layout.guest.architecture.kprobe_traits.most_kprobes_in_kernel_text or _AT_ONCE)
    if len(functions) > at_once * _MOST_LOADS:
        # The memory of so many large modules leaves holes, and later modules move into them (seen on 5.10).
        trial.layout.guest.used_up = f"modules with {len(functions)} probes"
    registered = 0
    wrong: list[str] = []
    for start in range(0, len(functions), at_once):
        part = functions[start : start + at_once]
        for aim, report, listed in _register(trial, part, refusals, mutant):
            registered += not report.errno
            wrong += _complaint(trial, refusals, aim, report, listed)
    if wrong:
        lines = "\n".join(wrong[:_SHOWN])
        raise Missed(f"{len(wrong)} of {len(functions)} functions registered by hand are not as computed:\n{lines}")
    return RegisteredByHand(len(functions), registered)


def _register(
    trial: Trial, aims: Sequence[RelocatedFunction], refusals: RefusalReasonFinder, mutant: Mutant
) -> Iterator[tuple[RelocatedFunction, SiteReport, ListedProbe | None]]:
    """Yield each function with the probe module's report on it and the kernel's entry at the reported address."""
    guest = trial.layout.guest
    sites = [aim.site for aim in aims]
    if mutant.misplaces_one_by_hand:
        _misplace_one(trial, sites, refusals)
    request = trial.by_hand.build_request(sites, UNARMED)
    view = probe_module.load_probe_module(guest, request.specs, request.parameters, request.module)
    probe_module.unload_probe_module(guest, request.module)
    listed = {each.address: each for each in view.newly_listed(view.listed_before_load)}
    for aim, report in zip(aims, view.reports, strict=True):
        yield aim, report, listed.get(report.address)


def _misplace_one(trial: Trial, sites: list[Site], refusals: RefusalReasonFinder) -> None:
    """Replace the first site that the kernel accepts by the function's next such one. Raises GuestError without any."""
    layout = trial.layout
    for index, site in enumerate(sites):
        moved = layout.next_accepted_site(site)
        if moved and not refusals.must_refuse(layout.probe_address(moved)):
            sites[index] = moved
            return
    raise GuestError("no function has two sites that the kernel accepts", where=layout.guest.name)


def _complaint(
    trial: Trial, refusals: RefusalReasonFinder, aim: RelocatedFunction, report: SiteReport, listed: ListedProbe | None
) -> Iterator[str]:
    layout = trial.layout
    if report.errno:
        if aim.lands and not refusals.reason(aim.site, layout.probe_address(aim.site), report.errno):
            yield f"{aim.site}: refused with errno {report.errno} at {aim.computed_address:#x}"
        return
    computed = layout.probe_address(aim.site) if aim.lands else aim.computed_address
    skipped = 0 if aim.lands else trial.classifier.landing_pad_size_at(computed)
    if report.address not in (computed, computed + skipped):
        yield f"{aim.site}: registered at {report.address:#x}, not at {computed:#x}"
        return
    if listed is None:
        yield f"{aim.site}: registered at {report.address:#x}, where the kernel lists nothing"
        return
    if aim.kind_at_address is AddressKind.MID_INSTRUCTION and trial.classifier.is_inside_instruction(report.address):
        yield f"{aim.site}: registered at {report.address:#x}, inside an instruction"
    by_kernel = parse_symbol_offset(listed.symbol_offset)
    by_files = layout.closest_symbols.symbol_offset_at(report.address)
    if by_kernel is None or not by_kernel.named_as_in(layout.kernel).is_same_place(by_files):
        yield f"{aim.site}: the kernel lists {listed.symbol_offset} at {report.address:#x}, the files have {by_files}"
