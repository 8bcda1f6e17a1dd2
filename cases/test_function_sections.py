"""With a section for each function, a function may be loaded anywhere, and only its symbol gives its address.

This is the first case of the letter of 2008: with -ffunction-sections, `_stext + offset` is wrong as soon as the order
changes.
"""

from collections.abc import Callable

import pytest

from harness.images.image import Image
from harness.landing.checks.evenly_spread_accepted_entries import sample_entries
from harness.landing.code.function_selection import PREAMBLES, functions_with_new_predecessor
from harness.landing.code.instructions import size_before_function
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target

# Probes spread over the whole kernel text; each costs a text patch under emulation.
SAMPLE = 48

# A kernel without a sibling is compared with the order of functions of this one.
STOCK = "x86_64-debian"


@pytest.mark.requires("kprobes", "module_text_sections")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_module_sections(layout: Layout, target_with_function_sections: Target, kprobes: Kprobes) -> None:
    """In a module built with -ffunction-sections, f+0 lands at the address that sysfs shows for `.text.f`.

    If the function begins with a landing pad, the probe is after it. A preamble has its own symbol, and the probe is
    after it, too. So is a function after data of its own (ppc64le), or after nops (arm64 since 6.4).
    """
    elf = target_with_function_sections.elf
    preambles = {each.section: each.size for each in elf.symbols if each.name.startswith(PREAMBLES)}
    own = {
        symbol.name: target_with_function_sections.sections[symbol.section]
        + preambles.get(symbol.section, 0)
        + size_before_function(elf, symbol, layout.decoder)
        for symbol in target_with_function_sections.functions_named_once
        if symbol.section == f".text.{symbol.name}"
    }
    assert len(own) >= 5, f"only {sorted(own)} have sections of their own"
    sites = [layout.entry_site(target_with_function_sections.function_site(function)) for function in own]
    with kprobes.on(*sites) as probes:
        pass
    probes.prove()
    for landing, (function, address) in zip(probes.landings, own.items(), strict=True):
        entry = address + landing.site.offset + layout.landing_pad_size(landing.site)
        if entry not in {statement.address for statement in landing.statements}:
            raise Missed(f"{function} is not at its section's {entry:#x}\n\n{landing.format_witness_table()}")


@pytest.mark.requires("kprobes", "kernel_function_sections")
@pytest.mark.mutants("one-instruction-off")
def test_kernel_sections(layout: Layout, kprobes: Kprobes, image_of: Callable[[str], Image]) -> None:
    """In a kernel with a section per function, probes land in functions whose order differs from the sibling's."""
    sibling = layout.guest.image.recipe.kernel.sibling or STOCK
    others = functions_with_new_predecessor(layout.kernel, image_of(sibling).vmlinux)
    assert others, f"no function stands in another order than in {sibling}"
    with kprobes.on(*sample_entries(layout, others, SAMPLE)) as probes:
        pass
    assert len(probes.landings) == SAMPLE
    probes.prove()
