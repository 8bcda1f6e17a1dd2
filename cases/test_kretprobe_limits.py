"""kretprobes accept the address after a landing pad, reuse their instances, and refuse too much data per instance."""

import errno

import pytest

from harness.landing.checks import kretprobes
from harness.landing.checks.descriptors_on_blacklist import cause_of_refusal_by_descriptors
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.verdict.cell_verdict_enum import end_as_known_fail

TIMES = 5
# More than probes/kretprobe/main.c has instances, PINPOINT_ACTIVE.
MANY = 100
# KRETPROBE_MAX_DATA_SIZE (include/linux/kprobes.h, since 5.16) is 4096.
MOST, TOO_MUCH = 4096, 4097

pytestmark = pytest.mark.requires("kprobes")


@pytest.mark.requires("entry_landing_pad")
@pytest.mark.mutants("blind-to-returns")
def test_behind_the_landing_pad(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The address right after the landing pad counts as the entry.

    arch_adjust_kprobe_addr(), arch/x86/kernel/kprobes/core.c, and, for ftrace's site, arch_kprobe_on_func_entry(),
    arch/powerpc/kernel/kprobes.c.
    """
    entry = target.shape_site("leaf")
    with kprobes.on(
        entry.at_offset(layout.entry_shift_of(*layout.elf_and_symbol(entry))),
        relocation=kretprobes.kretprobe_module_request,
    ) as probes:
        target.call_for_checksum("leaf", TIMES)
    probes.prove(hits=TIMES)
    kretprobes.expect_returns(probes, TIMES)


@pytest.mark.requires("traced_entry_kprobes")
@pytest.mark.mutants("blind-to-returns")
def test_more_calls_than_instances(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """More calls than instances are all seen, because each return frees its instance."""
    site = kretprobes.site_with_free_entry(layout, target, "leaf")
    if cause := cause_of_refusal_by_descriptors(kprobes, site, kretprobes.MODULE):
        end_as_known_fail(cause)
    with kprobes.on(site, relocation=kretprobes.kretprobe_module_request) as probes:
        target.call_for_checksum(site.symbol.removeprefix("pinpoint_"), MANY)
    probes.prove(hits=MANY)
    kretprobes.expect_returns(probes, MANY)


@pytest.mark.requires("traced_entry_kprobes")
@pytest.mark.mutants("registers-anyway")
def test_too_much_data(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """More than one page of data per instance is E2BIG (register_kretprobe(), kernel/kprobes.c, 6.1)."""
    site = kretprobes.site_with_free_entry(layout, target, "leaf")
    if cause := cause_of_refusal_by_descriptors(kprobes, site, kretprobes.MODULE):
        end_as_known_fail(cause)
    spec = site.spec
    wanted = [(TOO_MUCH, errno.E2BIG)] + ([] if kprobes.mutant.replace_refused_spec(spec) != spec else [(MOST, 0)])
    for size, number in wanted:
        expect_specs_refused(kprobes, spec, wanted=number, module=kretprobes.MODULE, parameters=[f"data_size={size}"])
