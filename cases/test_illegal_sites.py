"""Illegal kprobe sites are refused with the right errno; a probe accepted past a function's end is reported.

The errnos are those of kernel/kprobes.c and arch/*/kernel/kprobes.c in 6.1. The architecture table has the differences
between architectures. After each attempt the guest is checked: no complaint, no module, no kprobe left.
"""

import errno

import pytest

from harness.guest.guest import Guest
from harness.landing.checks.every_instruction import EveryInstructionSites
from harness.landing.checks.refusals import expect_specs_refused, refusal_errno_of_misaligned_bytes
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import (
    freed_kernel_init_function_names,
    kernel_converts_addresses,
    unique_blacklisted_names,
)
from harness.landing.mutants import HONEST
from harness.landing.past_end import expect_escape, next_function
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.cell_verdict_enum import end_as_known_fail

TIMES = 3
# Sites tried in one load of the probe module; a look-up by name costs milliseconds.
SAMPLE = 64
# Sampled from a thousand offsets inside instructions, each refused in 10 ms under emulation.
EVERY = 5


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_unresolvable_name(layout: Layout, kprobes: Kprobes) -> None:
    """A symbol or module that kallsyms does not know is ENOENT, and so is an empty name (_kprobe_addr()).

    A kernel that does not convert addresses (kernel_names.py) also looks up the empty name in modules. Their section
    symbols have no name, and there is no text at those addresses: EINVAL (kallsyms_lookup_name(), up to 5.14).
    """
    expect_specs_refused(kprobes, "pinpoint_no_such_symbol", "pinpoint_absent:clock_t_to_jiffies", wanted=errno.ENOENT)
    expect_specs_refused(kprobes, "+0x0", wanted=errno.ENOENT if kernel_converts_addresses(layout) else errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_symbol_and_address(layout: Layout, kprobes: Kprobes) -> None:
    """A request with both a symbol and an address is EINVAL, even if both name the same place."""
    address = layout.probe_address(Site("clock_t_to_jiffies"))
    expect_specs_refused(kprobes, f"@{address:#x}/clock_t_to_jiffies", wanted=errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_inside_an_instruction(guest: Guest, layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """An offset inside an instruction, or a misaligned one if instructions have a fixed width, is refused.

    The architecture's code refuses it. In a static branch or call of the kernel, its generic code does, with EINVAL.
    Every function of a module is tried. Where the kernel is known not to look at the alignment, it must refuse exactly
    those for which it takes the bytes there, or before, for an instruction that it refuses.
    """
    traits = guest.architecture.kprobe_traits
    inside = EveryInstructionSites(layout, target).inside_instructions_by_errno(traits.mid_instruction_errno, EVERY)
    if traits.takes_misaligned and kprobes.mutant is HONEST:
        pairs = [(number, site) for number, sites in inside.items() for site in sites]
        misread = [number or refusal_errno_of_misaligned_bytes(layout, site) for number, site in pairs]
        taken = kprobes.try_to_register_specs(*(site.spec for _, site in pairs), parameters=["disabled=1"])
        if list(taken) != misread:
            raise Missed(f"refused are {list(taken)}, not {misread}")
        end_as_known_fail(traits.takes_misaligned)
    for number, sites in inside.items():
        if sites:
            expect_specs_refused(kprobes, *(site.spec for site in sites), wanted=number or errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_blacklisted(guest: Guest, kprobes: Kprobes) -> None:
    """A function on the kernel's own blacklist is EINVAL (within_kprobe_blacklist())."""
    expect_specs_refused(kprobes, *unique_blacklisted_names(guest)[:SAMPLE], wanted=errno.EINVAL)


@pytest.mark.requires("kprobes", "module_initializers_freed")
@pytest.mark.mutants("registers-anyway")
def test_module_init_text(target: Target, kprobes: Kprobes) -> None:
    """A function in a module's freed .init.text is ENOENT, both by SYM and by MOD:SYM.

    The kernel frees the section and its symbols when the initializer returns.
    """
    gone = [symbol.name for symbol in target.elf.symbols if symbol.kind == "func" and symbol.section == ".init.text"]
    assert gone, "the module has no initialization text"
    # Every module has an init_module, some with a preamble; another module's may be in text that stays loaded.
    specs = [f"{target.module}:{name}" for name in gone] + [name for name in gone if not name.endswith("init_module")]
    expect_specs_refused(kprobes, *specs, wanted=errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_kernel_init_text(layout: Layout, kprobes: Kprobes) -> None:
    """The kernel's .init.text is freed at boot, but kallsyms keeps its names: EINVAL (check_kprobe_address_safe())."""
    expect_specs_refused(kprobes, *freed_kernel_init_function_names(layout)[:SAMPLE], wanted=errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_past_the_end_of_a_module_function(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """An offset that reaches the next function is accepted and hit when that function runs: escaped, not landed."""
    site = target.shape_site("leaf")
    following = next_function(layout, site)
    distance = (
        following.start - layout.symbol_start(site) + layout.entry_site(Site(following.name, module=site.module)).offset
    )
    with kprobes.on(site.at_offset(distance)) as probes:
        target.call_all_for_checksums(TIMES)
    expect_escape(probes.landings[0], f"next symbol {following.name}+{probes.addresses[0] - following.start:#x}")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_past_the_end_of_a_kernel_function(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """An offset of any size is accepted, even into a function of another source file: escaped, not landed."""
    near, far = sorted((Site("hex_to_bin"), Site("clock_t_to_jiffies")), key=layout.probe_address)
    entry = layout.entry_site(far)
    distance = layout.symbol_start(far) + entry.offset - layout.symbol_start(near)
    with kprobes.on(near.at_offset(distance)) as probes:
        target.call_for_checksum(far.symbol, TIMES)
    expect_escape(probes.landings[0], f"next symbol {far.symbol}+{entry.offset + layout.landing_pad_size(far):#x}")
    assert probes.landings[0].hits == TIMES


@pytest.mark.requires("kprobes", "module_stubs", "module_function_sections")
@pytest.mark.mutants("only-reported")
def test_past_the_end_into_a_stub(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """If the module loader puts stubs between functions, the first offset past a function is in a stub: escaped."""
    site = target.shape_site("leaf")
    _, symbol = layout.elf_and_symbol(site)
    with kprobes.on(site.at_offset(symbol.size)) as probes:
        target.call_for_checksum("leaf", TIMES)
    expect_escape(probes.landings[0], "stub before ")
    assert probes.landings[0].hits == 0
