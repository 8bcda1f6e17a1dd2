"""A kprobe is legal on every instruction boundary, on ftrace's call, as a jump, and with others on one site."""

import errno

import pytest

from harness.landing.checks import disable_and_unregister
from harness.landing.checks.every_instruction import EveryInstructionSites
from harness.landing.checks.optimized_probes import jump_size
from harness.landing.checks.probe_flags import await_flag, expect_flag_and_matching_memory, select_sites_apart
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.code.instructions import ftrace_site_offset
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 3
TOGETHER = 4
# Shapes that do not call each other.
SHAPES = ("loop", "picks", "reads_data", "cold_part")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_boundaries_not_stepped_right(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Instructions that the kernel single-steps incorrectly can be probed; they are not called here.

    test_under_a_probe.py probes and calls those that the kernel steps correctly.
    """
    sites = EveryInstructionSites(layout, target, kprobes.mutant).wrongly_stepped_sites
    if not sites:
        pytest.skip("this kernel steps every instruction correctly: test_every_instruction probes them all")
    with kprobes.on(*sites) as probes:
        pass
    probes.prove(hits=0)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_boundaries_refused(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Instructions that cannot be probed are each refused with their own errno.

    These are instructions that cannot be stepped, those that ftrace patches if it does not support kprobes, and static
    calls.
    """
    everywhere = EveryInstructionSites(layout, target)
    refused = {
        number: everywhere.sites_that_must_be_refused_with(number) for number in (errno.EINVAL, errno.EOPNOTSUPP)
    }
    if not any(refused.values()):
        pytest.skip("every instruction of the module can be probed")
    for number, sites in refused.items():
        if sites:
            expect_specs_refused(kprobes, *(site.spec for site in sites), wanted=number)


@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
@pytest.mark.parametrize("site", [Site("clock_t_to_jiffies"), Site("pinpoint_leaf", module="pinpoint_target")], ids=str)
def test_on_ftrace(layout: Layout, target: Target, kprobes: Kprobes, site: Site) -> None:
    """A probe on the instruction that ftrace patches is listed as [FTRACE]; memory has a call, not a breakpoint."""
    elf, symbol = layout.elf_and_symbol(site)
    patched = ftrace_site_offset(elf, symbol, layout.decoder)
    assert patched is not None, f"{site} is not traced"
    with kprobes.on(site.at_offset(patched)) as probes:
        target.call_for_checksum(site.symbol.removeprefix("pinpoint_"), TIMES)
    probes.prove(hits=TIMES)
    expect_flag_and_matching_memory(probes, "[FTRACE]", at_least=1)


@pytest.mark.requires("kprobes", "entry_landing_pad")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_entry_shift(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """If a function begins with a landing pad, such as ENDBR64, a probe on its entry lands after the pad.

    Symbol + 0 and symbol + the pad's size are the same site (arch_adjust_kprobe_addr(), arch/x86/kernel/kprobes/core.c,
    6.1). On 64-bit PowerPC it is ftrace's site after the code of the global entry, or the local entry
    (kprobe_lookup_name(), arch/powerpc/kernel/kprobes.c, 6.1).
    """
    entry = Site("clock_t_to_jiffies")
    pad = layout.entry_shift_of(*layout.elf_and_symbol(entry))
    with kprobes.on(entry, entry.at_offset(pad)) as probes:
        target.call_for_checksum("clock_t_to_jiffies", TIMES)
    probes.prove(hits=TIMES)
    _, symbol = layout.elf_and_symbol(entry)
    seen = {report.address - layout.symbol_address(symbol, "") for report in probes.final_reports}
    if seen != {pad}:
        raise Missed(f"{entry} and {entry.at_offset(pad)} landed {seen} bytes after the symbol, not both {pad}")


@pytest.mark.requires("kprobes", "optimized_kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_optimized_in_the_kernel(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The kernel turns probes on its own function into jumps, lists them as [OPTIMIZED], and they are still hit."""
    line = layout.once_per_call_sites(Site("clock_t_to_jiffies"))
    with kprobes.on(*select_sites_apart(line, jump_size(layout))) as probes:
        await_flag(probes, "[OPTIMIZED]")
        target.call_for_checksum("clock_t_to_jiffies", TIMES)
    probes.prove(hits=TIMES)
    expect_flag_and_matching_memory(probes, "[OPTIMIZED]", at_least=1)


@pytest.mark.requires("kprobes", "optimized_kprobes", "optimized_module_kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_optimized(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The kernel turns probes that are far enough apart into jumps, lists them as [OPTIMIZED], and they are still hit.

    Memory, read from outside, has a jump at each probe listed as [OPTIMIZED] and a breakpoint at each other. The kernel
    decides which instructions a jump may displace (can_optimize(), arch/x86/kernel/kprobes/opt.c, 6.1); it accepts some
    of these.
    """
    sites = [
        site
        for shape in SHAPES
        for site in select_sites_apart(layout.once_per_call_sites(target.shape_site(shape)), jump_size(layout))
    ]
    with kprobes.on(*sites) as probes:
        await_flag(probes, "[OPTIMIZED]")
        for shape in SHAPES:
            target.call_for_checksum(shape, TIMES)
    probes.prove(hits=TIMES)
    expect_flag_and_matching_memory(probes, "[OPTIMIZED]", at_least=len(SHAPES))


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_several_on_one_site(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Several probes on one site are all hit; if one is removed, the others and the breakpoint stay."""
    site = layout.once_per_call_sites(target.shape_site("leaf"), 3)[-1]
    with kprobes.on(*[site] * TOGETHER) as probes:
        disable_and_unregister.expect_second_registration_refused(probes, 1)
        target.call_for_checksum("leaf", TIMES)
        disable_and_unregister.call_unregister_kprobe(probes, 0)
        probes.read_again()
        target.call_for_checksum("leaf", TIMES)
    probes.prove()
    disable_and_unregister.expect_hit_counts(probes, [TIMES, *[2 * TIMES] * (TOGETHER - 1)])
