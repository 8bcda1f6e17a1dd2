"""Relocation by hand misses where symbol + offset lands: the two ways side by side, for every function.

By hand means what systemtap's runtime did in 2008: `_stext` of the running kernel + the site's distance from it in the
vmlinux that the probe was compiled for; for a module, its text base + the site's offset in the file. Each trial finds
where that points for every function, registers a sample there by kp.addr, and the same functions by symbol + offset.
docs/relocation-by-hand.md describes how things are counted.
"""

from collections.abc import Callable

import pytest

from harness.landing.by_hand import ByHand
from harness.landing.checks.classify_address import Places
from harness.landing.checks.relocation_trial import Trial, sample
from harness.landing.code.functions import unique_functions
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.report.relocation_table import TrialRow

Tried = Callable[..., TrialRow]


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", "other-build")
def test_symbol_and_offset_lands(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Functions of the kernel and of a module, by symbol + offset, land; the other build's offset does not."""
    kernels = [Site(symbol.name) for symbol in unique_functions(layout.kernel)]
    functions = target.functions(target.lasting_text, unique=True, preambles=False)
    ours = [Site(symbol.name, module=target.module) for symbol in functions]
    places = Places(layout)
    with kprobes.on(*sample(places, kernels), *sample(places, ours)) as probes:
        pass
    probes.prove()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_made_for_this_kernel(layout: Layout, kprobes: Kprobes, keep_trial: Tried) -> None:
    """The control: on the very kernel that the probes were made for, `_stext` + offset lands on every function."""
    trial = Trial.of_kernel(layout, "own-kernel", layout.guest.name, ByHand(layout))
    trial.prove(kprobes)
    row = keep_trial(trial, headline=not layout.guest.image.recipe.kernel.sibling)
    assert (row.missed, row.missed_by_symbol) == (0, 0)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", "other-build")
def test_made_for_another_order(layout: Layout, kprobes: Kprobes, keep_trial: Tried) -> None:
    """Made for the same source and configuration with functions in another order: most miss, by symbol all land."""
    if layout.sibling is None:
        pytest.skip(f"{layout.guest.name} has no sibling with another order of functions")
    sibling = layout.guest.image.recipe.kernel.sibling
    trial = Trial.of_kernel(layout, "other-order", sibling, ByHand(layout, vmlinux=layout.sibling), layout.sibling)
    trial.prove(kprobes)
    row = keep_trial(trial, headline=True)
    assert row.missed > row.symbols / 2
    assert row.missed_by_symbol == 0


@pytest.mark.requires("kprobes", "kaslr")
@pytest.mark.mutants("one-instruction-off")
def test_link_time_address_under_kaslr(layout: Layout, kprobes: Kprobes, keep_trial: Tried) -> None:
    """Where the kernel slides, a link-time address misses every function; `_stext` asked at run time is the control."""
    assert layout.slide
    trial = Trial.of_kernel(layout, "link-time", layout.guest.name, ByHand(layout, absolute=True))
    trial.prove(kprobes)
    row = keep_trial(trial)
    assert (row.missed, row.missed_by_symbol) == (row.symbols, 0)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_module_text_base(layout: Layout, target: Target, kprobes: Kprobes, keep_trial: Tried) -> None:
    """A module's text base + the offset in its file: misses as soon as the loader puts stubs between functions."""
    trial = Trial.of_module(layout, target, "module", target.module, ByHand(layout))
    trial.prove(kprobes)
    row = keep_trial(trial)
    assert row.missed_by_symbol == 0
    assert not layout.guest.traits.module_stubs or row.missed


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_module_made_for_another_layout(layout: Layout, target: Target, kprobes: Kprobes, keep_trial: Tried) -> None:
    """Made for another build of the module, which has the same functions in another layout: misses everywhere."""
    by_hand = ByHand(layout, modules=layout.other_modules)
    trial = Trial.of_module(layout, target, "rebuilt-module", f"{target.module}, rebuilt", by_hand)
    trial.prove(kprobes)
    row = keep_trial(trial)
    assert row.missed > row.symbols / 2
    assert row.missed_by_symbol == 0


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_module_function_sections(layout: Layout, sections: Target, kprobes: Kprobes, keep_trial: Tried) -> None:
    """A module with a section for each function: the distances in its file hold only if the loader keeps them."""
    trial = Trial.of_module(layout, sections, "section-module", sections.module, ByHand(layout))
    trial.prove(kprobes)
    assert keep_trial(trial).missed_by_symbol == 0
