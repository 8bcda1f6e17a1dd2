"""Compares the result of a function with and without a probe on one of its instructions, and watches the guest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.core.single_step_defect_types import Defect
from harness.core.worker_threads import WorkerThreads
from harness.guest.write_guest_memory import bytes_replaced
from harness.landing import past_end, probe_module
from harness.landing.checks.single_step_result import STOOD, MostFrequentCpuAddress, SingleStepResult
from harness.landing.code.basic_blocks import group_equally_run_offsets
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.instructions import (
    LEAVING_FLOWS,
    decode_function,
    has_delay_slots,
    is_padding_instruction_at,
    offsets_of_relocations_to_prefix,
)
from harness.landing.landing_judgment import Missed, demand_registered_elsewhere
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.site import Site
from harness.landing.target import Target

# A call takes milliseconds, or tenths of a second on parisc during a compile; in an endless trap it never returns.
_CALL_SECONDS = 8.0
# If a call takes longer, the CPU is looked at while the call lasts.
_PATIENCE = 1.5
# If the kernel has printed the documented oops, the call has this long to return; its task may have died.
_PATIENCE_AFTER_OOPS = 5.0
_LOOKS = 400
_LOOK_PAUSE = 0.02
# So many addresses are named if the CPU stays at none of them.
_NAMED = 6
_SHAPES_WITH_CALLS = ("calls", "branches")
_RETURN_THUNK = "__x86_return_thunk"


def first_site_of_kind(layout: Layout, site: Site, kind: InstructionKind) -> Site | None:
    """The first instruction of a kind in the site's function; None if there is none.

    A jump to the kernel's return thunk is a return (apply_returns(), arch/x86/kernel/alternative.c, 6.1).
    """
    elf, symbol = layout.elf_and_symbol(site)
    thunks = offsets_of_relocations_to_prefix(elf, symbol, _RETURN_THUNK)

    def kind_of(each: Instruction) -> InstructionKind:
        thunk = each.kind is InstructionKind.JUMP and not thunks.isdisjoint(range(each.offset, each.end))
        return InstructionKind.RETURN if thunk else each.kind

    code = decode_function(elf, symbol, layout.decoder)
    return next((site.at_offset(each.offset) for each in code if kind_of(each) is kind), None)


def defect_name(layout: Layout, site: Site, kind: InstructionKind) -> str:
    """The name in the table of architectures of the defect that a site of this kind has, if it has one.

    A skipped return runs on into what follows: the next function if there is one in the same section. MIPS does not
    step a nop in a delay slot.
    """
    elf, own = layout.elf_and_symbol(site)
    following = layout.next_instruction_site(site)
    if has_delay_slots(layout.decoder) and is_padding_instruction_at(
        elf.function_bytes(own), following.offset, layout.decoder
    ):
        name = f"{kind.value}-before-nop"
        if name in layout.guest.architecture.kprobe_traits.defects:
            return name
    follows = any(each.section == own.section and each.address > own.address for each in layout.functions(site.module))
    return f"{kind.value}-into-next-function" if kind is InstructionKind.RETURN and follows else kind.value


def delay_slot_site(layout: Layout, site: Site) -> Site | None:
    """The delay slot of the first call in the site's function; None if the architecture has no delay slots."""
    called = first_site_of_kind(layout, site, InstructionKind.CALL)
    return layout.next_instruction_site(called) if called and has_delay_slots(layout.decoder) else None


def first_call_before_nop(layout: Layout, target: Target) -> tuple[str, Site, InstructionKind] | None:
    """The first call with a nop in its delay slot that each call of its shape runs once; None if there is none."""
    if not has_delay_slots(layout.decoder):
        return None
    for shape in _SHAPES_WITH_CALLS:
        start = target.shape_site(shape)
        code = decode_function(*layout.elf_and_symbol(start), layout.decoder)
        for each, following in pairwise(code):
            if following.is_padding and each.kind is InstructionKind.CALL:
                return shape, start.at_offset(each.offset), each.kind
            if each.flow in LEAVING_FLOWS and each.kind is not InstructionKind.CALL:
                break
    return None


def is_refused(layout: Layout, site: Site) -> bool:
    """True if the kernel refuses a probe on the instruction at a site (MIPS: in a delay slot)."""
    code = decode_function(*layout.elf_and_symbol(site), layout.decoder)
    return any(each.offset == site.offset and each.flow is Flow.REFUSED for each in code)


def count_hits_of_conditional_branch(target: Target, shape: str, site: Site, times: int) -> int | None:
    """Count how often a branch is taken; None if its probe's handler runs anyway.

    Probes on the instructions before and after it count how often it is executed, and how often it is not taken.
    """
    layout = Layout(target.guest, [target])
    elf, symbol = layout.elf_and_symbol(site)
    code = decode_function(elf, symbol, layout.decoder)
    branch = next(each for each in code if each.offset == site.offset)
    if not branch.is_conditional:
        return None
    if any(each.target in (branch.offset, branch.end) for each in code):
        raise Missed(f"{site}: it, or the instruction after it, is the target of another branch")
    before = next((each for each in code if each.end == branch.offset), None)
    if before is None or before.is_conditional or before.flow is not Flow.PLAIN:
        raise Missed(f"{site}: the instruction before it does not always run with it")
    executed, not_taken = (
        call_probed(target, shape, site.at_offset(offset), times).hits for offset in (before.offset, branch.end)
    )
    return executed - not_taken


def count_runs(target: Target, shape: str, site: Site, times: int) -> int:
    """Count how often an instruction runs, by a probe on another one that always runs together with it.

    Raises GuestError if there is none that is stepped correctly.
    """
    layout = Layout(target.guest, [target])
    elf, symbol = layout.elf_and_symbol(site)
    code = {each.offset: each for each in decode_function(elf, symbol, layout.decoder)}
    groups = group_equally_run_offsets(elf, symbol, layout.decoder)
    together = next(group for group in groups if site.offset in group)
    others = (code[offset] for offset in together if offset != site.offset)
    other = next((each for each in others if each.kind is InstructionKind.OTHER and each.flow is Flow.PLAIN), None)
    if other is None:
        raise GuestError(f"no other instruction runs as often as {site}", where=target.guest.name)
    return call_probed(target, shape, site.at_offset(other.offset), times).hits


def call_probed(
    target: Target,
    shape: str,
    site: Site,
    times: int,
    mutant: Mutant = HONEST,
    *,
    nested: Site | None = None,
    oops: str = "",
    traps_at_probe: bool = False,
) -> SingleStepResult:
    """Probe one site, call the shape, and return the result. A guest in an endless trap is stopped.

    So is a guest whose console has the text `oops` and whose call does not return. `nested` is a second site to probe;
    the handler of the first probe runs it (probes/probe/main.c, parameter nests). With `traps_at_probe` a guest is in
    an endless trap if its CPU is seen at the probe, otherwise if it is seen outside of all functions.
    """
    layout = Layout(target.guest, [target])
    _ = layout.slide  # Read while the guest still responds; looking from outside needs it.
    unprobed = target.call_for_checksum(shape, times)
    sites, wrongs = [site], mutant.parameters(layout, [site])
    if nested:
        sites, wrongs = [site, nested], [*wrongs, "nests=1"]
    probe_module.load_probe_module(target.guest, [each.spec for each in sites], wrongs)
    try:
        probed, stands = _called(
            layout,
            lambda: target.call_for_checksum(shape, times, target.guest.scaled_deadline(_CALL_SECONDS)),
            oops,
            layout.probe_address(site) if traps_at_probe else None,
        )
    except GuestError as error:
        return SingleStepResult(site, times, unprobed, "", error=error.what)
    if stands:
        return SingleStepResult(site, times, unprobed, probed, cpu_address=stands)
    first, *others = probe_module.unload_probe_module(target.guest).reports
    if mutant.must_register_elsewhere:
        demand_registered_elsewhere(site, layout.probe_address(site), first.errno, first.address)
    inner = [(each.hits, each.missed) for each in others]
    return SingleStepResult(
        site, times, unprobed, probed, first.hits, first.missed, inner_hits_and_misses=inner[0] if inner else None
    )


def checksum_with_nops(target: Target, shape: str, site: Site, times: int, defect: Defect) -> str:
    """Call the shape without a probe and with nops where the defect skips instructions; return the checksum.

    The nops are written into the guest's memory from outside. Raises GuestError if a skipped instruction has another
    size than the nop.
    """
    layout = Layout(target.guest, [target])
    with ExitStack() as replaced:
        for distance in defect.skips:
            skipped = site.at_offset(site.offset + distance)
            if layout.next_instruction_site(skipped).offset - skipped.offset != len(defect.nop):
                size = len(defect.nop)
                raise GuestError(f"the instruction at {skipped} is not {size} bytes long", where=target.guest.name)
            replaced.enter_context(bytes_replaced(target.guest, layout.probe_address(skipped), defect.nop))
        return target.call_for_checksum(shape, times)


def _called(
    layout: Layout, call: Callable[[], str], oops: str = "", probe: int | None = None
) -> tuple[str, MostFrequentCpuAddress | None]:
    """Return the result of the call; if it does not return, "" and where the CPU is.

    The call has its own deadline. Once the console has the text `oops`, the call has _PATIENCE_AFTER_OOPS seconds.
    `probe` is the address of the probe if the CPU is looked for there.
    """
    console = layout.guest.console if oops else None
    began = console.position if console else 0

    def over() -> bool:
        return answer.done() or (console is not None and oops in console.text(since=began))

    with WorkerThreads(1) as pool:
        answer = pool.submit(call)
        wait([answer], _PATIENCE)
        stands = None if over() else sample_most_frequent_cpu_address(layout, over, probe)
        if stands and _is_stuck(stands, probe):
            layout.guest.stop()
            return "", stands
        while oops and not over():
            wait([answer], _PATIENCE)
        if oops and not answer.done() and not wait([answer], _PATIENCE_AFTER_OOPS).done:
            stands = sample_most_frequent_cpu_address(layout)
            layout.guest.stop()
            return "", stands
    try:
        return answer.result(), None
    except (DeadlineExceeded, GuestLost):
        return "", sample_most_frequent_cpu_address(layout, probe=probe)


def _is_stuck(stands: MostFrequentCpuAddress, probe: int | None) -> bool:
    return stands.is_stuck_outside_functions if probe is None else stands.is_stuck_at_probe


def sample_most_frequent_cpu_address(
    layout: Layout, over: Callable[[], bool] = lambda: False, probe: int | None = None
) -> MostFrequentCpuAddress | None:
    """Sample the CPU's address through QEMU's monitor, which needs no response from the guest.

    Samples until one address outside of all functions, or that of the probe if it is given, was seen often enough. If
    there is none, returns the most frequent address. Returns None as soon as `over` returns True.
    """
    seen: Counter[int] = Counter()
    for looks in range(1, _LOOKS + 1):
        if over():
            return None
        address = _program_counter(layout)
        seen[address] += 1
        found = _stood(layout, address, seen[address], looks, probe) if seen[address] >= STOOD else None
        if found and _is_stuck(found, probe):
            return found
        time.sleep(_LOOK_PAUSE)
    (most, times), *rest = seen.most_common(_NAMED)
    others = ", ".join(f"{count} at {layout.describe_address(address)}" for address, count in rest)
    return replace(_stood(layout, most, times, _LOOKS, probe), others=others)


def _stood(layout: Layout, address: int, times: int, looks: int, probe: int | None) -> MostFrequentCpuAddress:
    return MostFrequentCpuAddress(
        layout.describe_address(address),
        times,
        looks,
        past_end.is_in_any_function(layout, address),
        at_probe=address == probe,
    )


def _program_counter(layout: Layout) -> int:
    shown = layout.guest.monitor.hmp("info registers")
    counters = layout.guest.architecture.kprobe_traits.register_parser.parse_program_counters(shown)
    if not counters:
        raise GuestError(f"no program counter in {shown.split()[:8]}", where=layout.guest.name)
    return counters[0]
