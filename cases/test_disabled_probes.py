"""A disabled kprobe has no breakpoint and is not hit; enabled again, it is armed at the same address.

register_kprobe() with KPROBE_FLAG_DISABLED, disable_kprobe(), enable_kprobe() (kernel/kprobes.c, 6.1).
"""

import pytest

from harness.landing.checks import disable_and_unregister
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning.kprobes_across_module_reload import warm_up_allocations

TIMES = 3
BOUNDARIES = 3

pytestmark = pytest.mark.requires("kprobes")


def sites_of(layout: Layout, target: Target) -> list[Site]:
    """Return the entry and the next two instructions of a kernel function and of a module's.

    The entry may be the instruction that ftrace patches.
    """
    functions = (layout.called_kernel_function(BOUNDARIES), target.shape_site("leaf"))
    return [site for function in functions for site in layout.once_per_call_sites(function, BOUNDARIES)]


def call(layout: Layout, target: Target) -> None:
    """Call both functions."""
    target.call_for_checksum(layout.called_kernel_function(BOUNDARIES).symbol, TIMES)
    target.call_for_checksum("leaf", TIMES)


@pytest.mark.mutants("arms-anyway")
def test_registered_disabled(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A probe registered disabled is listed as disabled at its address, leaves memory unchanged, and is not hit."""
    with kprobes.on(*sites_of(layout, target), parameters=["disabled=1"]) as probes:
        call(layout, target)
    disable_and_unregister.expect_disabled_never_hit(probes)


@pytest.mark.mutants("only-reported")
def test_disabled_and_enabled(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A disabled probe leaves memory unchanged and is not hit; enabled again, it lands and is hit on each call."""
    sites = sites_of(layout, target)
    with kprobes.on(*sites) as probes:
        call(layout, target)
        for index in range(len(sites)):
            disable_and_unregister.call_disable_kprobe(probes, index)
        disable_and_unregister.expect_disabled_and_bytes_restored(probes)
        call(layout, target)
        for index in range(len(sites)):
            disable_and_unregister.call_enable_kprobe(probes, index)
        probes.read_again()
        call(layout, target)
    probes.prove(hits=2 * TIMES)
    probes.prove_gone()


@pytest.mark.mutants("only-reported")
def test_disabled_among_others(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """If one of three probes on a site is disabled, it is not hit; the others are, and the breakpoint stays."""
    site = layout.once_per_call_sites(target.shape_site("leaf"), 3)[-1]
    with kprobes.on(*[site] * 3) as probes:
        disable_and_unregister.call_disable_kprobe(probes, 1)
        probes.read_again()
        target.call_for_checksum("leaf", TIMES)
    probes.prove()
    disable_and_unregister.expect_hit_counts(probes, [TIMES, 0, TIMES])


@pytest.mark.mutants("only-reported")
def test_gone_cannot_be_enabled(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """enable_kprobe() returns EINVAL for a probe whose module was unloaded."""
    site = layout.once_per_call_sites(target.shape_site("leaf"))[2]
    warm_up_allocations(layout, target, site)
    with kprobes.on(site) as probes:
        disable_and_unregister.call_disable_kprobe(probes, 0)
        target.unload()
        try:
            disable_and_unregister.expect_enable_refused(probes, 0)
        finally:
            target.load()
