"""A kretprobe is accepted only on a function's entry, and sees every return and its value."""

import errno

import pytest

from harness.landing.checks import kretprobes
from harness.landing.checks.descriptors_on_blacklist import cause_of_refusal_by_descriptors
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.cell_verdict_enum import end_as_known_fail

TIMES = 5
_PREFIX = "pinpoint_"


@pytest.mark.requires("kprobes", "traced_entry_kprobes")
@pytest.mark.mutants("blind-to-returns", deep=("stale-snapshot",))
@pytest.mark.parametrize(
    "shape",
    ["leaf", *(pytest.param(each, marks=pytest.mark.deep) for each in ("calls", "static")), "clock_t_to_jiffies"],
)
def test_entry(layout: Layout, target: Target, kprobes: Kprobes, shape: str) -> None:
    """A kretprobe on the entry of a module or kernel function lands and sees each entry and each return."""
    kernel = shape == "clock_t_to_jiffies"
    site = Site(shape) if kernel else kretprobes.site_with_free_entry(layout, target, shape)
    shape = shape if kernel else site.symbol.removeprefix(_PREFIX)
    if cause := cause_of_refusal_by_descriptors(kprobes, site, kretprobes.MODULE):
        end_as_known_fail(cause)
    with kprobes.on(site, relocation=kretprobes.kretprobe_module_request) as probes:
        probed = target.call_for_checksum(shape, TIMES)
    probes.prove(hits=TIMES)
    kretprobes.expect_listed_as_kretprobes(probes)
    kretprobes.expect_returns(probes, TIMES)
    assert target.call_for_checksum(shape, TIMES) == probed, "the function returned something else while it was probed"


@pytest.mark.requires("kprobes", "traced_entry_kprobes")
@pytest.mark.mutants("blind-to-returns")
@pytest.mark.parametrize(
    "shape", ["leaf", *(pytest.param(each, marks=pytest.mark.deep) for each in ("calls", "branches"))]
)
def test_value(layout: Layout, target: Target, kprobes: Kprobes, shape: str) -> None:
    """The kretprobe sees the value that the caller gets."""
    site = kretprobes.site_with_free_entry(layout, target, shape)
    shape = site.symbol.removeprefix(_PREFIX)
    if cause := cause_of_refusal_by_descriptors(kprobes, site, kretprobes.MODULE):
        end_as_known_fail(cause)
    with kprobes.on(site, relocation=kretprobes.kretprobe_module_request) as probes:
        result = target.call_for_checksum(shape, 1)
    probes.prove(hits=1)
    kretprobes.expect_returned_value(probes, result)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_off_the_entry(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A kretprobe after the entry is EINVAL, because the location of the return address is unknown there.

    register_kretprobe(). The address right after a landing pad still counts as the entry (arch_adjust_kprobe_addr(),
    arch/x86/kernel/kprobes/core.c, 6.1).
    """
    sites = [
        site
        for shape in ("leaf", "calls", "loop")
        for site in layout.once_per_call_sites(target.shape_site(shape))[1:5]
    ]
    entry = layout.guest.architecture.kprobe_traits.return_probe_entry_bytes
    inner = [site for site in sites if site.offset > max(entry, layout.landing_pad_size(site))]
    expect_specs_refused(kprobes, *(site.spec for site in inner), wanted=errno.EINVAL, module=kretprobes.MODULE)
