"""The kernel converts an address to the closest symbol + offset and back, so a kprobe by address needs no symbol.

_kprobe_addr() turns every address into symbol + offset and back before it registers (kernel/kprobes.c, 6.1). The kernel
counts from the closest symbol below, at any distance (get_symbol_pos(), kernel/kallsyms.c; find_kallsyms_symbol(),
kernel/module/kallsyms.c). The offset may go past the end of a function.
"""

import errno
from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.landing.checks import between_functions
from harness.landing.checks.evenly_spread_accepted_entries import sample_entries
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.checks.single_step import is_refused
from harness.landing.code.function_selection import evenly_spread, text_functions_named_once
from harness.landing.code.instructions import decode_function, longest_instruction_size
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.armed_by_address import prove_armed_by_address, without_defects_at_entry
from harness.landing.lookup.closest_symbol_round_trip import FEWEST_PROBED, AddressConverter, request_by_address
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import (
    freed_kernel_init_function_names,
    functions_without_a_way_back,
    kernel_converts_addresses,
)
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.sweep.documented_refusal_reasons import RefusalReasonFinder
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure

TIMES = 3
# Functions of the kernel, evenly spread over its text. The first, middle and last instruction of each are converted.
SAMPLE = 96
# Symbols of an x86 kernel whose bytes are no sequence of 64-bit instructions: the first two end inside of their first
# instruction (arch/x86/lib/retpoline.S, 6.1), the last is 32-bit code (arch/x86/platform/pvh/head.S).
NO_INSTRUCTIONS = frozenset({"retbleed_untrain_ret", "srso_untrain_ret", "pvh_start_xen"})
# Every third instruction of a module is converted: on x86 each round trip takes the kernel 22 ms.
EVERY = 3
# The reasons for which padding may be refused, by its instruction in memory.
REFUSED_PADDING = ("instruction of 15 bytes", "instruction that is not stepped")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_kernel_text(layout: Layout, address_converter: AddressConverter, figure: Callable[..., Figure]) -> None:
    """Addresses all over the kernel text convert to a symbol and back, and both forms register at one address."""
    functions = sample_entries(layout, text_functions_named_once(layout.kernel), SAMPLE)
    decoded = [instruction_sites_from(layout, entry) for entry in functions if entry.symbol not in NO_INSTRUCTIONS]
    sites = [site for each in decoded for site in ends_and_middle(each)]
    found = address_converter.prove_round_trip(sites)
    taken = sum(conversion.is_registered_by_address for conversion in found)
    possible = sum(not is_refused(layout, site) for site in sites)
    figure("closest.kernel_addresses", len(found), "addresses")
    figure("closest.kernel_registered", taken, "addresses")
    # On MIPS the last instruction of most functions is in a delay slot.
    assert possible > 0.5 * len(found), f"on {len(found) - possible} of {len(found)} addresses probes are refused"
    assert taken > 0.8 * possible, f"only {taken} of {possible} addresses could be probed at all"


def instruction_sites_from(layout: Layout, entry: Site) -> list[Site]:
    """Return the sites of a function from its entry on: the kernel refuses what is before (Layout.entry_site()).

    Padding at the end is left out: clang counts the breakpoint after a last return as part of the function.
    """
    code = [
        each for each in decode_function(*layout.elf_and_symbol(entry), layout.decoder) if each.offset >= entry.offset
    ]
    while len(code) > 1 and code[-1].is_padding:
        code.pop()
    return [entry.at_offset(each.offset) for each in code]


def ends_and_middle(sites: list[Site]) -> list[Site]:
    """Return the first, the middle and the last site."""
    return list(dict.fromkeys((sites[0], sites[len(sites) // 2], sites[-1])))


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_no_way_back(
    layout: Layout, address_converter: AddressConverter, sweep_depth: Depth, figure: Callable[..., Figure]
) -> None:
    """A function that shares its name with an earlier one is probed by address; its name finds the earlier one.

    kallsyms_lookup_name() (kernel/kallsyms.c, 6.1) returns the first. For these functions the closest symbol + offset
    is not a way back to the address. A sample is tried; with --sweep=kernel, all.
    """
    shared, behind = functions_without_a_way_back(layout)
    figure("closest.shared_names", shared, "functions")
    figure("closest.no_way_back", len(behind), "functions")
    assert behind, "no two functions share a name"
    tried = evenly_spread(behind, SAMPLE) if sweep_depth is Depth.SAMPLE else behind
    probed = address_converter.prove_no_way_back(tried, RefusalReasonFinder(layout).explains)
    figure("closest.no_way_back_tried", len(tried), "functions")
    figure("closest.no_way_back_probed", probed, "functions")


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_no_way_back_armed(layout: Layout, kprobes: Kprobes, figure: Callable[..., Figure]) -> None:
    """Kprobes on a sample of these functions are armed by address, all at once; memory changes there and back.

    The functions run in the meantime. So it is not tried where a nested hit is fatal, and not on an entry that the
    architecture is documented to step wrong.
    """
    if layout.guest.architecture.kprobe_traits.nested_hit_is_fatal:
        pytest.skip(f"{layout.guest.name} does not survive kprobes on arbitrary functions")
    _, behind = functions_without_a_way_back(layout)
    tried = evenly_spread(without_defects_at_entry(layout, behind), SAMPLE)
    armed = prove_armed_by_address(layout, tried, kprobes.mutant)
    figure("closest.no_way_back_armed", armed, "functions")
    assert armed > FEWEST_PROBED * len(tried), f"only {armed} of {len(tried)} functions could be armed"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_module_text(
    layout: Layout, target: Target, address_converter: AddressConverter, figure: Callable[..., Figure]
) -> None:
    """Addresses in every function of a module that stays loaded convert to a symbol and back.

    These include `.cold` parts and functions with a second name.
    """
    functions = target.functions(target.lasting_sections, unique=True, preambles=False)
    sites = [Site(each.name, module=target.module) for each in functions]
    found = address_converter.prove_round_trip(
        [boundary for site in sites for boundary in layout.instruction_sites(site)[::EVERY]]
    )
    figure("closest.module_addresses", len(found), "addresses")
    assert len(found) > 100


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_hit_by_address(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Probes on bare addresses, and on both names of a function, are hit as often as their instructions run."""
    sites = layout.once_per_call_sites(target.shape_site("leaf"), 4)
    with kprobes.on(*sites, layout.entry_site(target.shape_site("alias")), relocation=request_by_address) as probes:
        target.call_for_checksum("alias", TIMES)
    probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes", "cold_halves")
@pytest.mark.mutants("converts-too-far")
def test_cold_half(layout: Layout, target: Target, address_converter: AddressConverter) -> None:
    """The `.cold` part of a function has its own symbol; no offset from the function leads to it."""
    cold = layout.instruction_sites(target.shape_site("cold_part.cold"))
    for conversion in address_converter.prove_round_trip(cold):
        assert conversion.kernel_symbol.name == "pinpoint_cold_part.cold"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_behind_functions(layout: Layout, target: Target, address_converter: AddressConverter) -> None:
    """The kernel accepts probes past the end of a function, on padding, stubs and zeros, and counts from its start.

    On x86 clang and lld also pad with nops of 15 bytes, which are ENOSPC, because their copy has no room for a
    breakpoint (prepare_singlestep(), arch/x86/kernel/kprobes/core.c, 6.1), and with breakpoints, which are EINVAL.

    If nothing is mapped after a module's text, x86 cannot copy an instruction of maximum length from the last
    word of the text: EINVAL (__copy_instruction(), arch/x86/kernel/kprobes/core.c, 6.12). If the kernel's decoder finds
    that this word is inside an instruction, the kernel refuses it for that reason (can_probe(), same file, 7.3). Where
    a module's data follows its text in the same page, the word is data: EINVAL (check_kprobe_address_safe(), 6.1).
    """
    behind = [
        *between_functions.sites_behind_functions(layout, target.module),
        between_functions.last_mapped_word_site(layout, target.module),
    ]
    assert len(behind) > 1
    *found, last = address_converter.prove_round_trip(behind)
    refusals, accepted = RefusalReasonFinder(layout), 0
    for site, conversion in zip(behind, found, strict=False):
        number = conversion.report_by_address.errno
        why = refusals.reason(site, conversion.address, number) if number else ""
        assert conversion.is_registered_by_address or why in REFUSED_PADDING, str(conversion)
        accepted += conversion.is_registered_by_address
    assert accepted, "every padding was refused"
    copied = longest_instruction_size(layout.decoder) <= between_functions.WORD
    wanted = 0 if copied or between_functions.is_mapped_behind_text(layout, target.module) else errno.EINVAL
    if not between_functions.last_mapped_word_starts_instruction(layout, target.module):
        wanted = layout.guest.architecture.kprobe_traits.mid_instruction_errno
    if not between_functions.has_text_pages_of_its_own(layout):
        wanted = errno.EINVAL
    assert last.report_by_address.errno == wanted, str(last)


@pytest.mark.requires("kprobes", "module_stubs")
@pytest.mark.mutants("converts-too-far")
def test_in_stubs(layout: Layout, target: Target, address_converter: AddressConverter) -> None:
    """A stub has no symbol: it is named by an offset past the function before it, and can be probed."""
    stubs = between_functions.linker_stub_sites_before_functions(layout, target.module)
    assert stubs
    for conversion in address_converter.prove_round_trip(stubs):
        assert conversion.is_registered_by_address, str(conversion)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_name_of_two_functions(layout: Layout, target: Target, address_converter: AddressConverter) -> None:
    """If two functions share a name, an address in the second cannot be reached by that name + offset.

    find_kallsyms_symbol_value() (kernel/module/kallsyms.c, 6.1) stops at the first symbol in the table. The second
    function can be probed only by its address.
    """
    twins = target.elf.symbols_named("pinpoint_twin")
    entry = layout.entry_site(target.shape_site("twin")).offset
    start = layout.symbol_address(twins[1], target.module) + entry
    first, second = (
        layout.symbol_address(twin, target.module) + entry + layout.landing_pad_size_of(target.elf, twin)
        for twin in twins
    )
    found = address_converter.convert_address(start)
    if (found.kernel_symbol.name, found.report_by_address.address, found.report_by_symbol.address) != (
        "pinpoint_twin",
        second,
        first,
    ):
        raise Missed(str(found))


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_behind_kernel_text(guest: Guest, layout: Layout, kprobes: Kprobes) -> None:
    """An address after _etext is EINVAL (check_kprobe_address_safe()), or ENOENT if kallsyms has no data symbols.

    In the second case is_ksym_addr() (include/linux/kallsyms.h, 6.1) ends with the text, so _kprobe_addr() fails first.
    """
    known = guest.traits.data_symbols
    expect_specs_refused(kprobes, f"@{layout.text_range.stop:#x}", wanted=errno.EINVAL if known else errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_kernel_init_text(layout: Layout, kprobes: Kprobes) -> None:
    """A symbol of the freed `.init.text`, which kallsyms keeps, is EINVAL by name and address (core_kernel_text())."""
    gone = Site(freed_kernel_init_function_names(layout)[0])
    expect_specs_refused(kprobes, gone.spec, f"@{layout.symbol_start(gone):#x}", wanted=errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_outside_of_a_module(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """An address before a module's first symbol has no closest symbol: ENOENT. A module's data is not text: EINVAL.

    A kernel that does not convert addresses (up to 5.18, kernel_names.py) looks for no symbol: EINVAL in both cases.
    """
    below = errno.ENOENT if kernel_converts_addresses(layout) else errno.EINVAL
    expect_specs_refused(kprobes, f"@{between_functions.address_below_symbols(layout, target.module):#x}", wanted=below)
    expect_specs_refused(kprobes, f"@{target.sections['.data']:#x}", wanted=errno.EINVAL)
