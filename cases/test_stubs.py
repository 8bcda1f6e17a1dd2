"""The parisc module loader puts stubs between functions, so distances in the ELF file do not hold in memory.

arch/parisc/kernel/module.c (6.1) places before each section one stub for each of its far calls, and one more. Offsets
inside a section hold; distances between sections do not.
"""

from collections.abc import Callable

import pytest

from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.systemtap_relocation_by_hand import RelocationByHandCalculator
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure

TIMES = 5
SHAPES = ("leaf", "calls", "loop", "static")
# pinpoint_calls() calls each of them once, too.
CALLED_TWICE = ("pinpoint_leaf", "pinpoint_static")


@pytest.mark.requires("kprobes", "module_stubs", "module_function_sections")
def test_gaps_differ(target: Target, layout: Layout, figure: Callable[..., Figure]) -> None:
    """Some functions that follow each other in the file are farther apart in memory; none are closer."""
    gaps = layout.consecutive_function_distances(target.module)
    grown = [gap for gap in gaps if gap.bytes_loaded > gap.bytes_in_file]
    assert grown, f"no gap grew: {gaps}"
    assert all(gap.bytes_loaded >= gap.bytes_in_file for gap in gaps), f"a gap shrank: {gaps}"
    figure("stubs.largest_growth", max(gap.bytes_loaded - gap.bytes_in_file for gap in grown), "bytes")


@pytest.mark.requires("kprobes", "module_stubs", "module_function_sections")
@pytest.mark.mutants("text-base", "deaf")
def test_symbol_lands(target: Target, kprobes: Kprobes) -> None:
    """Symbol + offset lands on every function; the mutant, text base + file offset, lands elsewhere and is caught."""
    sites = [target.shape_site(shape) for shape in SHAPES]
    with kprobes.on(*sites) as probes:
        for shape in SHAPES:
            target.call_for_checksum(shape, TIMES)
    probes.prove()
    for landing in probes.landings:
        expected = TIMES * (2 if landing.site.symbol in CALLED_TWICE else 1)
        if landing.hits != expected:
            raise Missed(f"hit {landing.hits} times, not {expected}\n\n{landing.format_witness_table()}")


@pytest.mark.requires("kprobes", "module_stubs", "module_function_sections")
def test_text_base_misses(target: Target, layout: Layout, figure: Callable[..., Figure]) -> None:
    """Text base + file offset points before the function, by the size of all stubs up to it."""
    by_hand = RelocationByHandCalculator(layout)
    missed = {}
    for shape in SHAPES:
        site = target.shape_site(shape)
        missed[shape] = layout.probe_address(site) - by_hand.address(site)
    figure("stubs.missed_by", max(missed.values()), "bytes")
    assert max(missed.values()) > 0, f"text base + file offset happens to hold: {missed}"
    assert min(missed.values()) >= 0, f"a function is closer to the text base than in the file: {missed}"
