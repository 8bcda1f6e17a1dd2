"""A probed function computes what it does unprobed, whichever of its instructions is probed.

The kernel runs a copy of the probed instruction, or does by hand what it does. That is easy for an addition, and has to
be done right for whatever leaves the line of execution: branches, calls, returns, delay slots. What a kernel is known
to do wrong there stands in the architecture table, with its lines; such a cell asserts that very symptom.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from harness.guest.guest import Guest
from harness.landing.checks import single_step
from harness.landing.checks.every_instruction import Everywhere
from harness.landing.checks.probe_flags import unoptimized
from harness.landing.code.instruction import InstructionKind
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.verdict import known_fail

Fresh = Callable[..., AbstractContextManager[Guest]]

# Enough for every branch of every shape to go both ways.
TIMES = 8


def under_probe_or_defect(
    kind: str,
    target: Target,
    shape: str,
    site: Site,
    kprobes: Kprobes,
    fresh: Fresh,
    nested: Site | None = None,
) -> None:
    """Exact, or the defect of that kind which the architecture table has; in a guest of its own if that is fatal."""
    defect = target.guest.architecture.kprobes.defects.get(kind)
    if defect is None:
        single_step.call(target, shape, site, TIMES, kprobes.mutant, nested=nested).demand_exact()
        return
    if not defect.fatal:
        single_step.call(target, shape, site, TIMES, kprobes.mutant, nested=nested).demand_symptom(defect)
    else:
        with fresh(may_die=True) as guest:
            own = Target(guest, target.module)
            own.load()
            single_step.call(own, shape, site, TIMES, kprobes.mutant, nested=nested).demand_symptom(defect)
    known_fail(defect.why)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("clobbers", "only-reported")
def test_every_instruction(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """With a probe on every instruction of a module that is stepped right, all its functions return the same.

    Instructions that only run together are hit as often as each other, and every one of the shape that branches is hit.
    """
    everywhere = Everywhere(layout, target, kprobes.mutant)
    unprobed = target.call_all(TIMES)
    with unoptimized(target.guest), kprobes.on(*everywhere.stepped_right) as probes:
        probed = target.call_all(TIMES)
    if probed != unprobed:
        raise Missed(f"a probed function computes something else: {sorted({*probed} ^ {*unprobed})}")
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
    ],
)
def test_leaving_the_line(
    target: Target, layout: Layout, kprobes: Kprobes, fresh: Fresh, kind: InstructionKind, shape: str
) -> None:
    """One instruction that leaves the line of execution: probed, the function returns what it does unprobed.

    Where the kernel is known to step this kind wrong, it does so in just the way that is written down; if the guest
    does not live through that, it is one of its own.
    """
    site = single_step.first_of_kind(layout, target.site(shape), kind)
    if site is None:
        pytest.skip(f"{shape} has no such instruction on {layout.guest.name}")
    under_probe_or_defect(kind.value, target, shape, site, kprobes, fresh)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_probe_in_a_handler(layout: Layout, target: Target, kprobes: Kprobes, fresh: Fresh) -> None:
    """A probe that is hit inside of another's handler runs no handler, is counted as missed, and does no harm.

    Neither is on an entry: where that is ftrace's, ftrace itself lets no nested call through, and counts nothing.
    """
    outer, inner = (layout.straight(site, 3)[-1] for site in (target.site("leaf"), Site("clock_t_to_jiffies")))
    under_probe_or_defect("nested", target, "leaf", outer, kprobes, fresh, nested=inner)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_branch_not_taken(target: Target, layout: Layout, kprobes: Kprobes) -> None:
    """A conditional branch that is not taken goes on behind itself: the loop that is always entered."""
    site = single_step.first_of_kind(layout, target.site("loop"), InstructionKind.CONDITIONAL)
    assert site is not None, "the loop has no conditional branch"
    single_step.call(target, "loop", site, TIMES, kprobes.mutant).demand_exact()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_delay_slot(target: Target, layout: Layout, kprobes: Kprobes) -> None:
    """A probe in the delay slot of a call: the call goes where it goes."""
    slot = single_step.delay_slot(layout, target.site("calls"))
    if slot is None:
        pytest.skip(f"{layout.guest.name} has no delay slots")
    single_step.call(target, "calls", slot, TIMES, kprobes.mutant).demand_exact()
