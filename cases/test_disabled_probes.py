"""A kprobe that is disabled has no breakpoint and is not hit; enabled again, it is where it was.

register_kprobe() with KPROBE_FLAG_DISABLED, disable_kprobe(), enable_kprobe() (kernel/kprobes.c, 6.1).
"""

import pytest

from harness.landing.checks import several_probes
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 3
KERNEL = Site("clock_t_to_jiffies")

pytestmark = pytest.mark.requires("kprobes")


def sites_of(layout: Layout, target: Target) -> list[Site]:
    """An entry, which may be ftrace's, and two instructions behind it, of a function of the kernel and of a module."""
    return [*layout.straight(KERNEL, 3), *layout.straight(target.site("leaf"), 3)]


def call(target: Target) -> None:
    """Both functions."""
    target.call("clock_t_to_jiffies", TIMES)
    target.call("leaf", TIMES)


@pytest.mark.mutants("arms-anyway")
def test_registered_disabled(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Registered disabled: listed so, at its address, memory as before, and not hit."""
    with kprobes.on(*sites_of(layout, target), parameters=["disabled=1"]) as probes:
        call(target)
    several_probes.expect_silent(probes)


@pytest.mark.mutants("only-reported")
def test_disabled_and_enabled(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Disabled, memory is as before and nothing is hit; enabled again, it lands, and is hit as often as before."""
    sites = sites_of(layout, target)
    with kprobes.on(*sites) as probes:
        call(target)
        for index in range(len(sites)):
            several_probes.disable(probes, index)
        several_probes.expect_disarmed(probes)
        call(target)
        for index in range(len(sites)):
            several_probes.enable(probes, index)
        probes.look_again()
        call(target)
    probes.prove(hits=2 * TIMES)
    probes.prove_gone()


@pytest.mark.mutants("only-reported")
def test_disabled_among_others(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Of three probes on one site one is disabled: it is not hit, the others are, and the breakpoint stays."""
    site = layout.straight(target.site("leaf"), 3)[-1]
    with kprobes.on(*[site] * 3) as probes:
        several_probes.disable(probes, 1)
        probes.look_again()
        target.call("leaf", TIMES)
    probes.prove()
    several_probes.expect_hits(probes, [TIMES, 0, TIMES])


@pytest.mark.mutants("only-reported")
def test_gone_cannot_be_enabled(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A probe whose module is gone is EINVAL to enable_kprobe()."""
    with kprobes.on(layout.straight(target.site("leaf"))[2]) as probes:
        several_probes.disable(probes, 0)
        target.unload()
        try:
            several_probes.expect_not_enabled(probes, 0)
        finally:
            target.load()
