"""An address is closest symbol + offset, and that is the address again: pure-address kprobes need no symbol of ours.

_kprobe_addr() turns every address into symbol + offset and back before it registers (kernel/kprobes.c, 6.1). The kernel
counts from the closest symbol below, whatever that is and however far (get_symbol_pos(), kernel/kallsyms.c;
find_kallsyms_symbol(), kernel/module/kallsyms.c): the end of a function is no end to it.
"""

import errno
from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.landing.checks import between_functions
from harness.landing.checks.refusals import expect_refusal
from harness.landing.code.functions import unique_functions
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.conversion import Conversions, by_address
from harness.landing.lookup.kallsyms import converts_addresses, freed
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.sweep.sample import spread
from harness.landing.target import Target
from harness.report.measurements import Figure

TIMES = 3
# Functions of the kernel, evenly spread over its text; of each the first, the middle and the last instruction.
SAMPLE = 96
# Of a module's instructions every third: on x86 each takes the kernel 22 ms, there and back.
EVERY = 3


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_kernel_text(layout: Layout, conversions: Conversions, figure: Callable[..., Figure]) -> None:
    """Instructions spread over the whole kernel text: there and back, and registered at one address both ways."""
    functions = spread(layout, unique_functions(layout.kernel), SAMPLE)
    found = conversions.prove([site for function in functions for site in ends_and_middle(layout.boundaries(function))])
    taken = sum(conversion.registered for conversion in found)
    figure("closest.kernel_addresses", len(found), "addresses")
    figure("closest.kernel_registered", taken, "addresses")
    assert taken > len(found) // 2, f"only {taken} of {len(found)} addresses could be probed at all"


def ends_and_middle(sites: list[Site]) -> list[Site]:
    """First, middle and last."""
    return list(dict.fromkeys((sites[0], sites[len(sites) // 2], sites[-1])))


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_module_text(layout: Layout, target: Target, conversions: Conversions, figure: Callable[..., Figure]) -> None:
    """Instructions of every function that stays loaded, from its entry on, of `.cold` halves and second names too."""
    functions = target.functions(target.lasting, unique=True, preambles=False)
    sites = [Site(each.name, module=target.module) for each in functions]
    found = conversions.prove([boundary for site in sites for boundary in layout.boundaries(site)[::EVERY]])
    figure("closest.module_addresses", len(found), "addresses")
    assert len(found) > 100


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", "only-reported")
def test_hit_by_address(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Probes on bare addresses are hit as often as their instructions run; on both names of a function, too."""
    sites = layout.straight(target.site("leaf"), 4)
    with kprobes.on(*sites, target.site("alias"), relocation=by_address) as probes:
        target.call("alias", TIMES)
    probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes", "cold_halves")
@pytest.mark.mutants("converts-too-far")
def test_cold_half(layout: Layout, target: Target, conversions: Conversions) -> None:
    """What gcc moved away is a symbol of its own: no offset into the function leads there."""
    cold = layout.boundaries(target.site("cold_part.cold"))
    for conversion in conversions.prove(cold):
        assert conversion.kernel.name == "pinpoint_cold_part.cold"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_behind_functions(layout: Layout, target: Target, conversions: Conversions) -> None:
    """Behind a function the kernel counts on from its start, and takes a probe: on padding, in stubs, on zeros.

    Where nothing is mapped behind a module's text it cannot copy the longest of instructions from the last word of it:
    EINVAL (__copy_instruction(), arch/x86/kernel/kprobes/core.c, 6.12). Where that word is the inside of an
    instruction, as the kernel decodes its way there, it is refused as such (can_probe(), there, 7.3).
    """
    behind = [
        *between_functions.behind_functions(layout, target.module),
        between_functions.last_word(layout, target.module),
    ]
    assert len(behind) > 1
    *found, last = conversions.prove(behind)
    for conversion in found:
        assert conversion.registered, str(conversion)
    wanted = 0 if between_functions.mapped_behind(layout, target.module) else errno.EINVAL
    if not between_functions.last_word_starts_instruction(layout, target.module):
        wanted = layout.guest.architecture.kprobes.mid_instruction
    assert last.by_address.errno == wanted, str(last)


@pytest.mark.requires("kprobes", "module_stubs")
@pytest.mark.mutants("converts-too-far")
def test_in_stubs(layout: Layout, target: Target, conversions: Conversions) -> None:
    """Stubs have no symbols: a stub is so much past the function in front of it, and may be probed."""
    stubs = between_functions.stubs(layout, target.module)
    assert stubs
    for conversion in conversions.prove(stubs):
        assert conversion.registered, str(conversion)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("converts-too-far")
def test_name_of_two_functions(layout: Layout, target: Target, conversions: Conversions) -> None:
    """An address in the second function of a name has no way back by it: the name means the first in the table.

    find_kallsyms_symbol_value() (kernel/module/kallsyms.c, 6.1) stops at the first; only the bare address will do.
    """
    twins = target.elf.named("pinpoint_twin")
    start = layout.base(twins[1], target.module)
    first, second = (layout.base(twin, target.module) + layout.pad(target.elf, twin) for twin in twins)
    found = conversions.convert(start)
    if (found.kernel.name, found.by_address.address, found.by_symbol.address) != ("pinpoint_twin", second, first):
        raise Missed(str(found))


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_behind_kernel_text(guest: Guest, layout: Layout, kprobes: Kprobes) -> None:
    """Behind _etext: no text, EINVAL (check_kprobe_address_safe()). Without data in kallsyms no symbol, either: ENOENT.

    is_ksym_addr() (include/linux/kallsyms.h, 6.1) ends with the text there, so that _kprobe_addr() fails first.
    """
    known = guest.traits.data_symbols
    expect_refusal(kprobes, f"@{layout.text.stop:#x}", wanted=errno.EINVAL if known else errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_kernel_init_text(layout: Layout, kprobes: Kprobes) -> None:
    """kallsyms keeps `.init.text`, whose memory is long freed: EINVAL by name and by address (core_kernel_text())."""
    gone = Site(freed(layout)[0])
    expect_refusal(kprobes, gone.spec, f"@{layout.start(gone):#x}", wanted=errno.EINVAL)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_outside_of_a_module(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """In front of a module's first symbol nothing is closest, ENOENT; its data are not text, EINVAL.

    A kernel that takes an address as it is (up to 5.18, kernel_names.py) looks for no symbol: EINVAL, too.
    """
    below = errno.ENOENT if converts_addresses(layout) else errno.EINVAL
    expect_refusal(kprobes, f"@{between_functions.below(layout, target.module):#x}", wanted=below)
    expect_refusal(kprobes, f"@{target.sections['.data']:#x}", wanted=errno.EINVAL)
