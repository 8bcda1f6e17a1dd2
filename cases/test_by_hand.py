"""Relocation by hand misses sites where symbol + offset lands: both methods are compared for every function.

"By hand" is the method of systemtap's runtime of 2008. For the kernel it is `_stext` of the running kernel + the site's
distance from `_stext` in the vmlinux that the probe was compiled for. For a module it is the text base + the site's
offset in the file. Each trial computes that address for every function, registers a sample there by kp.addr, and
registers the same functions by symbol + offset. docs/relocation-by-hand.md describes how the results are counted.
"""

from collections.abc import Callable

import pytest

from harness.landing.checks.classify_address import AddressClassifier
from harness.landing.checks.register_by_hand import prove_registered_by_hand
from harness.landing.checks.relocation_by_hand_trial import Trial, sample_sites
from harness.landing.code.function_selection import text_functions_named_once
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.systemtap_relocation_by_hand import RelocationByHandCalculator
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure
from harness.report.relocation_by_hand_table import TrialRow

Tried = Callable[..., TrialRow]


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("other-build", deep=("one-instruction-off",))
def test_symbol_and_offset_lands(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Probes by symbol + offset land in kernel and module functions; an offset from another build does not."""
    kernels = [layout.entry_site(Site(symbol.name)) for symbol in text_functions_named_once(layout.kernel)]
    functions = target.functions(target.lasting_text_sections, unique=True, preambles=False)
    ours = [layout.entry_site(Site(symbol.name, module=target.module)) for symbol in functions]
    places = AddressClassifier(layout)
    with kprobes.on(*sample_sites(places, kernels), *sample_sites(places, ours)) as probes:
        pass
    probes.prove()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("misplaces-one", deep=("one-instruction-off",))
def test_made_for_this_kernel(
    layout: Layout, kprobes: Kprobes, record_relocation_trial: Tried, sweep_depth: Depth, figure: Callable[..., Figure]
) -> None:
    """Control: on the kernel that the probes were made for, `_stext` + offset lands on every function.

    The sum is the function's address by arithmetic. What can fail: the kernel lists each registered kprobe under the
    function's own name. A sample spread over the text is registered; with --sweep=kernel, every function.
    """
    trial = Trial.of_kernel(layout, "own-kernel", layout.guest.name, RelocationByHandCalculator(layout))
    trial.prove_sample_in_guest(kprobes)
    by_hand = prove_registered_by_hand(trial, sweep_depth, kprobes.mutant)
    figure("byhand.tried", by_hand.tried, "functions")
    figure("byhand.registered", by_hand.registered, "functions")
    row = record_relocation_trial(trial, headline=not layout.guest.image.recipe.kernel.sibling)
    assert (row.missed, row.missed_by_symbol) == (0, 0)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("other-build", deep=("one-instruction-off",))
def test_made_for_another_order(
    layout: Layout, kprobes: Kprobes, record_relocation_trial: Tried, sweep_depth: Depth, figure: Callable[..., Figure]
) -> None:
    """Offsets from the same source with its functions in another order mostly miss; by symbol all probes land.

    The kernel registers what it accepts at the computed address, and lists it under another function.
    """
    if layout.sibling_kernel is None:
        pytest.skip(f"{layout.guest.name} has no sibling with another order of functions")
    sibling = layout.guest.image.recipe.kernel.sibling
    trial = Trial.of_kernel(
        layout,
        "other-order",
        sibling,
        RelocationByHandCalculator(layout, vmlinux=layout.sibling_kernel),
        layout.sibling_kernel,
    )
    trial.prove_sample_in_guest(kprobes)
    by_hand = prove_registered_by_hand(trial, sweep_depth, kprobes.mutant)
    figure("byhand.other-order.tried", by_hand.tried, "functions")
    figure("byhand.other-order.registered", by_hand.registered, "functions")
    row = record_relocation_trial(trial, headline=True)
    assert row.missed > row.symbols / 2
    assert row.missed_by_symbol == 0


@pytest.mark.deep
@pytest.mark.requires("kprobes", "kaslr")
@pytest.mark.mutants("one-instruction-off")
def test_link_time_address_under_kaslr(layout: Layout, kprobes: Kprobes, record_relocation_trial: Tried) -> None:
    """Under KASLR a link-time address misses every function; the control reads `_stext` at run time.

    The count is arithmetic, because the slide is not 0. What can fail: where the kernel puts the registered sample.
    """
    assert layout.slide
    trial = Trial.of_kernel(layout, "link-time", layout.guest.name, RelocationByHandCalculator(layout, absolute=True))
    trial.prove_sample_in_guest(kprobes)
    row = record_relocation_trial(trial)
    assert (row.missed, row.missed_by_symbol) == (row.symbols, 0)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_module_text_base(layout: Layout, target: Target, kprobes: Kprobes, record_relocation_trial: Tried) -> None:
    """A module's text base + file offset misses as soon as the module loader puts stubs between functions."""
    trial = Trial.of_module(layout, target, "module", target.module, RelocationByHandCalculator(layout))
    trial.prove_sample_in_guest(kprobes)
    row = record_relocation_trial(trial)
    assert row.missed_by_symbol == 0
    assert not layout.guest.traits.module_stubs or row.missed


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_module_made_for_another_layout(
    layout: Layout, target: Target, kprobes: Kprobes, record_relocation_trial: Tried
) -> None:
    """Offsets from another build of the module, with the same functions in another layout, all miss."""
    by_hand = RelocationByHandCalculator(layout, modules=layout.other_module_builds)
    trial = Trial.of_module(layout, target, "rebuilt-module", f"{target.module}, rebuilt", by_hand)
    trial.prove_sample_in_guest(kprobes)
    row = record_relocation_trial(trial)
    assert row.missed > row.symbols / 2
    assert row.missed_by_symbol == 0


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_module_function_sections(
    layout: Layout, target_with_function_sections: Target, kprobes: Kprobes, record_relocation_trial: Tried
) -> None:
    """In a module with a section for each function, file distances hold only if the module loader keeps them."""
    trial = Trial.of_module(
        layout,
        target_with_function_sections,
        "section-module",
        target_with_function_sections.module,
        RelocationByHandCalculator(layout),
    )
    trial.prove_sample_in_guest(kprobes)
    assert record_relocation_trial(trial).missed_by_symbol == 0
