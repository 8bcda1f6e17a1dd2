"""The kprobe blacklist covers whole functions, including the parts that the compiler split off them.

within_kprobe_blacklist() (kernel/kprobes.c, 6.1).
"""

import errno

import pytest

from harness.guest.guest import Guest
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.code.function_selection import evenly_spread, read_blacklist_ranges
from harness.landing.layout import Layout
from harness.landing.lookup import find_addresses_refusing_kprobes
from harness.landing.mutants import HONEST
from harness.landing.probe_run import Kprobes
from harness.verdict.cell_verdict_enum import end_as_known_fail

# The probes are registered disabled, so that a kernel that accepts such a place survives and can be read.
DISABLED = ["disabled=1"]
SAMPLE = 64
# Bytes. In a longer function the middle is not the start.
SHORT = 16

pytestmark = [pytest.mark.requires("kprobes"), pytest.mark.mutants("registers-last", deep=("registers-anyway",))]


def test_inside_a_blacklisted_function(guest: Guest, kprobes: Kprobes) -> None:
    """The address of the middle of a blacklisted function is EINVAL, as its first instruction is."""
    aligned = -guest.architecture.kprobe_traits.instruction_alignment
    middles = [
        (start + end) // 2 & aligned
        for start, end in evenly_spread(read_blacklist_ranges(guest), SAMPLE)
        if end - start > SHORT
    ]
    assert len(middles) > SAMPLE // 2
    expect_specs_refused(kprobes, *(f"@{place:#x}" for place in middles), wanted=errno.EINVAL, parameters=DISABLED)


def test_part_of_a_blacklisted_function(guest: Guest, layout: Layout, kprobes: Kprobes) -> None:
    """A part that the compiler split off a blacklisted function, such as `NAME.cold` or `NAME.isra.0`, is refused."""
    places = find_addresses_refusing_kprobes.unlisted_parts_of_blacklisted_functions(layout, guest)
    if not places:
        pytest.skip(f"no function on {guest.name}'s blacklist has a part elsewhere")
    specs = [f"@{place:#x}" for place in evenly_spread(places, SAMPLE)]
    expect_specs_refused(kprobes, *specs, wanted=errno.EINVAL, parameters=DISABLED)


def test_function_that_the_handler_calls(guest: Guest, kprobes: Kprobes) -> None:
    """A function that the handler of every probe's breakpoint calls is EINVAL; a probe there would trap without end."""
    causes = guest.architecture.kprobe_traits.trap_handlers_functions
    known = sorted(causes)
    names = [name for name in known if kprobes.layout.kernel.symbols_named(name)]
    if not names:
        inlined = f"; {', '.join(known)} is inlined" if known else ""
        pytest.skip(f"all that the handler calls is on {guest.name}'s blacklist, as far as is known{inlined}")
    taken = kprobes.try_to_register_specs(*names, parameters=DISABLED)
    if kprobes.mutant is HONEST and set(taken) == {0}:
        end_as_known_fail("; ".join(causes[name] for name in names))
    expect_specs_refused(kprobes, *names, wanted=errno.EINVAL, parameters=DISABLED)
