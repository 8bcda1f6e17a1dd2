"""A probe that the kernel makes a jump of: what the jump may displace, what it keeps, and what is left of it.

arch/x86/kernel/kprobes/opt.c (6.1): a jump is five bytes long, and displaces the instructions that stand there.
"""

import pytest

from harness.landing.checks import several_probes, single_step
from harness.landing.checks.optimized_probes import (
    JUMP,
    OPTIMIZED,
    await_jump,
    before_static_branches,
    branched_into,
    displaced,
    expect_no_jump,
    is_optimized,
    optimizable,
)
from harness.landing.checks.probe_flags import apart, await_flag, unoptimized
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 8
# Each is called alone; the first is where a jump can be put.
SHAPES = ("carries", "counts", "loop", "reads_data")
# A race between two writes to files and the optimiser, which waits for some ticks.
TRIES = 5

pytestmark = pytest.mark.requires("kprobes", "optimized_kprobes")


def possible(layout: Layout, target: Target, kprobes: Kprobes, *shapes: str) -> list[Site]:
    """Where the kernel makes jumps of probes in these functions, each probed at instructions of its straight line."""
    sites = [site for shape in shapes for site in apart(layout.straight(target.site(shape)), JUMP)]
    return optimizable(kprobes, sites)


@pytest.mark.mutants("only-reported")
def test_restored(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """All bytes that a jump displaced are back when its probe is gone."""
    sites = possible(layout, target, kprobes, *SHAPES)
    with kprobes.on(*sites) as probes:
        await_flag(probes, OPTIMIZED)
    probes.prove()
    probes.prove_gone()


@pytest.mark.mutants("only-reported")
def test_flags_live_through(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The carry made by the instruction in front of a probe is there for the one behind, when the probe is a jump, too.

    Every instruction of the function's straight line takes a probe in turn.
    """
    unprobed = target.call("carries", TIMES)
    line = layout.straight(target.site("carries"))
    jumps = 0
    for first in range(JUMP):
        sites = [line[0], *apart(line[1 + first :], JUMP)]
        with kprobes.on(*sites) as probes:
            await_flag(probes, OPTIMIZED)
            jumps += sum(is_optimized(probes, site) for site in sites)
            probed = target.call("carries", TIMES)
        probes.prove(hits=TIMES)
        if probed != unprobed:
            raise Missed(f"probed at {', '.join(map(str, sites))} it returns {probed}, not {unprobed}")
    assert jumps


@pytest.mark.mutants("only-reported")
def test_branch_target_is_kept(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Where a branch leads to an instruction that would be displaced, the breakpoint stays (insn_jump_into_range())."""
    clock = possible(layout, target, kprobes, "carries")[0]
    sites = branched_into(layout, layout.boundaries(target.site("counts")))
    assert sites, "nothing is branched to"
    expect_no_jump(kprobes, sites, clock)


@pytest.mark.mutants("only-reported")
def test_reserved_place_is_kept(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """In front of a static branch, which the kernel patches itself, it stays (jump_label_text_reserved())."""
    clock = possible(layout, target, kprobes, "carries")[0]
    sites = before_static_branches(layout, target.site("keyed"))
    assert sites, "the function has no static branch"
    expect_no_jump(kprobes, sites, clock)


@pytest.mark.mutants("only-reported")
@pytest.mark.parametrize("backwards", [False, True], ids=["outer-first", "inner-first"])
def test_overlapping(layout: Layout, target: Target, kprobes: Kprobes, *, backwards: bool) -> None:
    """Of two probes that are nearer than a jump the first becomes none, whichever was there first; both are hit."""
    found = possible(layout, target, kprobes, "carries", "counts", "reads_data")
    outer = next((site for site in found if displaced(layout, site)), None)
    assert outer is not None, "every jump displaces one instruction"
    clock = next(site for site in found if site.symbol != outer.symbol)
    pair = [outer, displaced(layout, outer)[0]]
    with kprobes.on(*(reversed(pair) if backwards else pair), clock) as probes:
        await_flag(probes, OPTIMIZED)
        wrong = is_optimized(probes, outer) and displaced(layout, outer)[0] == pair[1]
        # A jump over another probe's breakpoint may kill the guest that runs into it.
        for site in () if wrong else (outer, clock):
            target.call(site.symbol.removeprefix("pinpoint_"), TIMES)
    if wrong:
        raise Missed(f"{outer} became a jump over {pair[1]}")
    probes.prove(hits=TIMES)


@pytest.mark.mutants("only-reported")
def test_forced_back(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A probe is disabled while it is a jump, and at once another is armed on what the jump displaced.

    The kernel then puts the breakpoint back itself, and the worker takes that away later (unoptimize_kprobe(),
    kernel/kprobes.c, 6.1). Nothing is left in the end.
    """
    found = possible(layout, target, kprobes, "carries", "counts", "reads_data")
    outer = next(site for site in found if displaced(layout, site))
    inner = displaced(layout, outer)[0]
    for _ in range(TRIES):
        with kprobes.on(outer, inner, parameters=["disabled=1"]) as probes:
            several_probes.enable(probes, 0)
            await_jump(probes, outer)
            several_probes.swap(probes, 0, 1)
            target.call(outer.symbol.removeprefix("pinpoint_"), TIMES)
            probes.look_again()
            hits = probes.reports_now[1].hits
        if hits != TIMES:
            raise Missed(f"{inner} was hit {hits} times, not {TIMES}")
        probes.prove_gone()


@pytest.mark.mutants("only-reported")
def test_breakpoint_in_a_handler(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A breakpoint that is hit inside of another one's handler runs no handler, and is counted as missed.

    Jumps have a path of their own (optimized_callback()), so the kernel makes none here.
    """
    outer, inner = (layout.straight(site, 3)[-1] for site in (target.site("leaf"), Site("clock_t_to_jiffies")))
    with unoptimized(target.guest):
        outcome = single_step.call(target, "leaf", outer, TIMES, kprobes.mutant, nested=inner)
    outcome.demand_exact()
