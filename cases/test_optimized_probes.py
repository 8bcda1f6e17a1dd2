"""A probe that the kernel optimized into a jump displaces only what it may, changes no result, and leaves nothing.

arch/x86/kernel/kprobes/opt.c (6.1): a jump is five bytes long and displaces the instructions in those bytes. On ARM it
is as long as every instruction (arch/arm/probes/kprobes/opt-arm.c, 6.1).
"""

import pytest

from harness.landing.checks import disable_and_unregister, single_step
from harness.landing.checks.optimized_probes import (
    await_jump,
    expect_no_jump,
    is_optimized,
    jump_size,
    optimizable_sites,
    sites_before_static_branches,
    sites_overwriting_branch_targets,
    sites_overwritten_by_jump,
)
from harness.landing.checks.probe_flags import await_flag, optimization_off, select_sites_apart
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_module import OPTIMIZED
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 8
# Each is called alone; a jump fits into the first.
SHAPES = ("carries", "counts", "loop", "reads_data")
# Two writes to files race with the kernel's optimizer, which waits for some ticks.
TRIES = 5

pytestmark = pytest.mark.requires("kprobes", "optimized_kprobes", "optimized_module_kprobes")


def possible(layout: Layout, target: Target, kprobes: Kprobes, *shapes: str) -> list[Site]:
    """Return the sites on the straight lines of these functions whose probes the kernel turns into jumps."""
    sites = [
        site
        for shape in shapes
        for site in select_sites_apart(layout.once_per_call_sites(target.shape_site(shape)), jump_size(layout))
    ]
    return optimizable_sites(kprobes, sites)


@pytest.mark.mutants("only-reported")
def test_restored(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """All bytes that a jump displaced are restored when its probe is removed."""
    sites = possible(layout, target, kprobes, *SHAPES)
    with kprobes.on(*sites) as probes:
        await_flag(probes, OPTIMIZED)
    probes.prove()
    probes.prove_gone()


@pytest.mark.mutants("only-reported")
def test_flags_live_through(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The carry flag survives a probe between the instructions that set and use it, even if the probe is a jump.

    Every instruction of the function's straight line is probed in turn.
    """
    unprobed = target.call_for_checksum("carries", TIMES)
    line = layout.once_per_call_sites(target.shape_site("carries"))
    jumps = 0
    for first in range(jump_size(layout)):
        sites = [line[0], *select_sites_apart(line[1 + first :], jump_size(layout))]
        with kprobes.on(*sites) as probes:
            await_flag(probes, OPTIMIZED)
            jumps += sum(is_optimized(probes, site) for site in sites)
            probed = target.call_for_checksum("carries", TIMES)
        probes.prove(hits=TIMES)
        if probed != unprobed:
            raise Missed(f"probed at {', '.join(map(str, sites))} it returns {probed}, not {unprobed}")
    assert jumps


@pytest.mark.requires("jumps_displace_instructions")
@pytest.mark.mutants("only-reported")
def test_branch_target_is_kept(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """If a branch leads to an instruction that would be displaced, the breakpoint stays (insn_jump_into_range())."""
    clock = possible(layout, target, kprobes, "carries")[0]
    # On 32-bit x86 the compiler makes no loop of the first one.
    lines = [layout.instruction_sites(target.shape_site(shape)) for shape in ("counts", "loop")]
    sites = [site for line in lines for site in sites_overwriting_branch_targets(layout, line)]
    assert sites, "no instruction is a branch target"
    expect_no_jump(kprobes, sites, clock)


@pytest.mark.requires("jumps_displace_instructions")
@pytest.mark.mutants("only-reported")
def test_reserved_place_is_kept(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Before a static branch, which the kernel itself patches, the breakpoint stays (jump_label_text_reserved())."""
    clock = possible(layout, target, kprobes, "carries")[0]
    sites = sites_before_static_branches(layout, target.shape_site("keyed"))
    assert sites, "the function has no static branch"
    expect_no_jump(kprobes, sites, clock)


@pytest.mark.requires("jumps_displace_instructions")
@pytest.mark.mutants("only-reported")
@pytest.mark.parametrize(
    "backwards", [pytest.param(False, id="outer-first"), pytest.param(True, id="inner-first", marks=pytest.mark.deep)]
)
def test_overlapping(layout: Layout, target: Target, kprobes: Kprobes, *, backwards: bool) -> None:
    """If the next probe is closer than a jump is long, the first does not become a jump, and both are hit.

    The order of registration does not matter.
    """
    found = possible(layout, target, kprobes, "carries", "counts", "reads_data")
    outer = next((site for site in found if sites_overwritten_by_jump(layout, site)), None)
    assert outer is not None, "every jump displaces one instruction"
    clock = next(site for site in found if site.symbol != outer.symbol)
    pair = [outer, sites_overwritten_by_jump(layout, outer)[0]]
    with kprobes.on(*(reversed(pair) if backwards else pair), clock) as probes:
        await_flag(probes, OPTIMIZED)
        wrong = is_optimized(probes, outer) and sites_overwritten_by_jump(layout, outer)[0] == pair[1]
        # A jump over another probe's breakpoint may kill the guest that runs into it.
        for site in () if wrong else (outer, clock):
            target.call_for_checksum(site.symbol.removeprefix("pinpoint_"), TIMES)
    if wrong:
        raise Missed(f"{outer} became a jump over {pair[1]}")
    probes.prove(hits=TIMES)


@pytest.mark.requires("jumps_displace_instructions")
@pytest.mark.mutants("only-reported")
def test_forced_back(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """If a jump's probe is disabled and another is armed at once on a displaced instruction, that one is hit.

    The kernel then puts the breakpoint back itself, and its worker removes the breakpoint later (unoptimize_kprobe(),
    kernel/kprobes.c, 6.1). Nothing is left in the end.
    """
    found = possible(layout, target, kprobes, "carries", "counts", "reads_data")
    outer = next(site for site in found if sites_overwritten_by_jump(layout, site))
    inner = sites_overwritten_by_jump(layout, outer)[0]
    for _ in range(TRIES):
        with kprobes.on(outer, inner, parameters=["disabled=1"]) as probes:
            disable_and_unregister.call_enable_kprobe(probes, 0)
            await_jump(probes, outer)
            disable_and_unregister.disable_then_enable_another(probes, 0, 1)
            target.call_for_checksum(outer.symbol.removeprefix("pinpoint_"), TIMES)
            probes.read_again()
            hits = probes.last_read_reports[1].hits
        if hits != TIMES:
            raise Missed(f"{inner} was hit {hits} times, not {TIMES}")
        probes.prove_gone()


@pytest.mark.mutants("only-reported")
def test_breakpoint_in_a_handler(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A breakpoint that is hit inside another probe's handler runs no handler and is counted as missed.

    Jumps have their own path (optimized_callback()), so optimization is off here.
    """
    outer, inner = map(layout.site_behind_entry, (target.shape_site("leaf"), Site("clock_t_to_jiffies")))
    with optimization_off(target.guest):
        outcome = single_step.call_probed(target, "leaf", outer, TIMES, kprobes.mutant, nested=inner)
    outcome.demand_exact()
