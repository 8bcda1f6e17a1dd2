"""A probed function returns the same value as unprobed, whichever of its instructions is probed.

The kernel runs a copy of the probed instruction or emulates it. That is easy for an addition, and harder for an
instruction that leaves the line of execution: a branch, call, return or delay slot. The architecture table lists the
known defects of kernels there, with source lines; a cell with such a defect asserts its exact symptom.
"""

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from harness.core.single_step_defect_types import Symptom
from harness.guest.guest import Guest
from harness.landing.checks import single_step
from harness.landing.checks.every_instruction import EveryInstructionSites
from harness.landing.checks.probe_flags import optimization_off
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.code.instruction import InstructionKind
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.cell_verdict_enum import end_as_known_fail
from harness.verdict.complaints import read_sorted_complaints
from harness.verdict.stack_store_warning import is_stack_store_warning

Fresh = Callable[..., AbstractContextManager[Guest]]

# Enough that every branch of every shape goes both ways.
TIMES = 8
# Enough that some interrupts of the timer wait for the return from a probe's trap.
MANY = 5_000
FENCE_SECONDS = 60.0


def under_probe_or_defect(
    kind: str,
    target: Target,
    shape: str,
    site: Site,
    kprobes: Kprobes,
    fresh: Fresh,
    nested: Site | None = None,
) -> None:
    """Raise Missed unless the call is exact, or shows the defect that the architecture table has for this kind.

    If the defect is fatal, the call is made in a guest of its own. On ARM the handler of a probe on a conditional
    branch runs only if the branch is taken (kprobe_handler(), arch/arm/probes/kprobes/core.c, 6.1).
    """
    defect = target.guest.architecture.kprobe_traits.defects.get(kind)
    if defect is None:
        hits = single_step.count_hits_of_conditional_branch(target, shape, site, TIMES)
        result = single_step.call_probed(target, shape, site, TIMES, kprobes.mutant, nested=nested)
        replace(result, exact_hits=hits).demand_exact()
        return
    if not defect.fatal:
        found = single_step.call_probed(target, shape, site, TIMES, kprobes.mutant, nested=nested)
        if defect.nop:
            skipped = single_step.checksum_with_nops(target, shape, site, TIMES, defect)
            found = replace(found, skipped_checksum=skipped)
        if defect.symptom is Symptom.HITS_LOST:
            found = replace(found, runs=single_step.count_runs(target, shape, site, TIMES))
        found.demand_symptom(defect)
    else:
        with fresh(may_die=True) as guest:
            own = Target(guest, target.module)
            own.load()
            began = guest.console.position
            at_probe = defect.symptom is Symptom.TRAPS_AT_PROBE
            found = single_step.call_probed(
                own, shape, site, TIMES, kprobes.mutant, nested=nested, oops=defect.oops, traps_at_probe=at_probe
            )
            if found.error or found.cpu_address:
                # On SPARC the task faults again while it dies, and its shell never answers. That guest is stopped.
                printed = (
                    guest.console.text(since=began)
                    if found.cpu_address
                    else guest.read_output_since_fence(guest.scaled_deadline(FENCE_SECONDS))
                )
                complaints = read_sorted_complaints(printed, guest.image.recipe.boot_noise).alarming
                found = replace(found, oops="; ".join(each.headline for each in complaints))
            found.demand_symptom(defect)
    end_as_known_fail(defect.cause)


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("clobbers", deep=("only-reported",))
def test_every_instruction(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """With a probe on every correctly stepped instruction of a module, all its functions return the same values.

    Instructions that only run together have equal numbers of hits, and every instruction of the branching shape is hit.
    """
    everywhere = EveryInstructionSites(layout, target, kprobes.mutant)
    unprobed = target.call_all_for_checksums(TIMES)
    with optimization_off(target.guest), kprobes.on(*everywhere.correctly_stepped_sites) as probes:
        probed = target.call_all_for_checksums(TIMES)
    if probed != unprobed:
        raise Missed(f"a probed function returns another value: {sorted({*probed} ^ {*unprobed})}")
    probes.prove()
    everywhere.demand_even_hits(probes)
    everywhere.demand_all_hit(probes, "branches")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        pytest.param(InstructionKind.CONDITIONAL, "branches", id="taken-branch"),
        pytest.param(InstructionKind.CALL, "calls", id="call"),
        pytest.param(InstructionKind.RETURN, "leaf", id="return"),
        pytest.param(InstructionKind.LONE_RETURN, "loop", id="return-without-delay-slot"),
        pytest.param(InstructionKind.SKIP, "picks", id="nullifying"),
        pytest.param(InstructionKind.ANNULLING, "emulated", id="annulling-branch"),
        pytest.param(InstructionKind.LONE_JUMP, "emulated", id="jump-without-delay-slot"),
        pytest.param(InstructionKind.CONDITIONAL_ON_REGISTER, "emulated", id="branch-on-register"),
        pytest.param(InstructionKind.TAKEN_FOR_RETURN, "emulated", id="taken-for-a-return"),
        pytest.param(InstructionKind.BACKWARD_CONDITIONAL, "emulated", id="branch-back"),
    ],
)
def test_leaving_the_line(
    target: Target, layout: Layout, kprobes: Kprobes, fresh: Fresh, kind: InstructionKind, shape: str
) -> None:
    """With a probe on an instruction that leaves the line of execution, the function returns the same value.

    If the kernel is known to step this kind of instruction incorrectly, it must show exactly the documented symptom. If
    the symptom kills the guest, the cell uses a guest of its own.
    """
    site = single_step.first_site_of_kind(layout, target.shape_site(shape), kind)
    if site is None:
        pytest.skip(f"{shape} has no such instruction on {layout.guest.name}")
    under_probe_or_defect(single_step.defect_name(layout, site, kind), target, shape, site, kprobes, fresh)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("next-of-its-kind")
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        pytest.param(InstructionKind.CONDITIONAL, "branches", id="taken-branch"),
        pytest.param(InstructionKind.CALL, "calls", id="call"),
    ],
)
def test_value_where_it_is_skipped(
    target: Target, layout: Layout, kprobes: Kprobes, fresh: Fresh, kind: InstructionKind, shape: str
) -> None:
    """Where a kernel skips a probed branch or call, the function returns exactly the value that it returns without it.

    That value is measured: a nop is written over the instruction, and the function is called without a probe.
    """
    defect = target.guest.architecture.kprobe_traits.defects.get(kind.value)
    if defect is None or not defect.nop:
        pytest.skip(f"{target.guest.name} skips no {kind.value} under a probe")
    site = single_step.first_site_of_kind(layout, target.shape_site(shape), kind)
    assert site is not None
    under_probe_or_defect(kind.value, target, shape, site, kprobes, fresh)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_probe_in_a_handler(layout: Layout, target: Target, kprobes: Kprobes, fresh: Fresh) -> None:
    """A probe that is hit inside another probe's handler runs no handler, is counted as missed, and does no harm.

    Neither probe is on an entry: if ftrace patches the entry, ftrace itself drops the nested call and counts nothing.
    """
    outer, inner = map(layout.site_behind_entry, (target.shape_site("leaf"), Site("clock_t_to_jiffies")))
    under_probe_or_defect("nested", target, "leaf", outer, kprobes, fresh, nested=inner)


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_stack_frames_in_task_and_timer(
    layout: Layout, target: Target, kprobes_in: Callable[..., Kprobes], fresh: Fresh
) -> None:
    """Probes on the store of a stack frame do no harm in a function that a task calls and in one of the timer.

    PowerPC's kernel emulates the instruction, and does its store when it returns from the trap. A kernel with the
    documented defect handles the timer's interrupt in between, and prints a WARNING if it hits a second such probe.
    """
    sites = [target.shape_site("calls"), Site("update_process_times")]
    stores = [single_step.first_site_of_kind(layout, each, InstructionKind.STACK_STORE) for each in sites]
    outer, inner = stores
    if outer is None or inner is None:
        pytest.skip(f"no instruction of {layout.guest.name} is emulated in part")
    unprobed = target.call_for_checksum("calls", MANY)
    with fresh(may_die=True) as guest, Target(guest, target.module) as own:
        guest.read_output_since_fence(guest.scaled_deadline(FENCE_SECONDS))
        with kprobes_in(guest, own).on(outer, inner) as probes:
            probed = own.call_for_checksum("calls", MANY)
        probes.prove()
        printed = guest.read_output_since_fence(guest.scaled_deadline(FENCE_SECONDS))
        complaints = read_sorted_complaints(printed, guest.image.recipe.boot_noise).alarming
    hits = [report.hits for report in probes.final_reports]
    if probed != unprobed or hits[0] != MANY or not hits[1]:
        raise Missed(f"{MANY} calls returned {probed}, not {unprobed}; hits of {outer} and {inner}: {hits}")
    places = ((outer.symbol, outer.offset), (inner.symbol, inner.offset))
    documented = [is_stack_store_warning(each, *places) for each in complaints]
    cause = layout.guest.image.recipe.defects.stack_store_waits
    if cause and not (complaints and all(documented)):
        found = "; ".join(map(str, complaints)) or "no complaint"
        raise Missed(f"documented defect absent; fixed? {hits[1]} hits of {inner}; {found}")
    if cause:
        end_as_known_fail(cause)
    if complaints:
        raise Missed("; ".join(map(str, complaints)))


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_branch_not_taken(target: Target, layout: Layout, kprobes: Kprobes, fresh: Fresh) -> None:
    """A probed conditional branch that is not taken continues at the next instruction, in a loop always entered."""
    site = single_step.first_site_of_kind(layout, target.shape_site("loop"), InstructionKind.CONDITIONAL)
    assert site is not None, "the loop has no conditional branch"
    name = single_step.defect_name(layout, site, InstructionKind.CONDITIONAL)
    kind = "conditional-not-taken" if name == InstructionKind.CONDITIONAL.value else name
    under_probe_or_defect(kind, target, "loop", site, kprobes, fresh)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_before_a_nop(target: Target, layout: Layout, kprobes: Kprobes, fresh: Fresh) -> None:
    """With a probe on a call that has a nop in its delay slot, the function returns the same value."""
    found = single_step.first_call_before_nop(layout, target)
    if found is None:
        pytest.skip(f"no call of the shapes has a nop in its delay slot on {layout.guest.name}")
    shape, site, kind = found
    under_probe_or_defect(single_step.defect_name(layout, site, kind), target, shape, site, kprobes, fresh)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_delay_slot(target: Target, layout: Layout, kprobes: Kprobes, fresh: Fresh) -> None:
    """With a probe in the delay slot of a call, the call still reaches its target; or the kernel refuses that probe.

    If the kernel is known to step it incorrectly, it must show exactly the documented symptom.
    """
    slot = single_step.delay_slot_site(layout, target.shape_site("calls"))
    if slot is None:
        pytest.skip(f"{layout.guest.name} has no delay slots")
    if kprobes.mutant is HONEST and single_step.is_refused(layout, slot):
        expect_specs_refused(kprobes, slot.spec, wanted=errno.EINVAL)
        return
    under_probe_or_defect(InstructionKind.DELAY_SLOT.value, target, "calls", slot, kprobes, fresh)
