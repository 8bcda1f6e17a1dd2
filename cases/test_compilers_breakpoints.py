"""Behind a breakpoint that the compiler put into a function, an instruction takes a probe like any other.

Where the kernel is compiled with -mharden-sls=all, int3 follows every return and every indirect jump.
"""

from itertools import pairwise

import pytest

from harness.core.errors import PinpointError
from harness.landing.code.functions import evenly, unique_functions
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decoded
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site

# Functions that are looked at; probes of those that have such a breakpoint.
LOOKED_AT, SAMPLE = 2000, 24


def behind_breakpoints(layout: Layout) -> list[Site]:
    """The first instruction behind an int3 inside of a function, of many functions of the kernel."""
    found = []
    for symbol in evenly(unique_functions(layout.kernel), LOOKED_AT):
        try:
            code = decoded(layout.kernel, symbol, layout.decoder)
        except PinpointError:
            # It has bytes that are no instructions, such as hand-written templates (text_poke_early() on x86_64).
            continue
        for each, following in pairwise(code):
            inside = each.flow is Flow.ENDS and each.padding and following.flow is Flow.PLAIN
            if inside:
                found.append(Site(symbol.name, following.offset))
                break
    return found


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", "only-reported")
def test_behind_a_compilers_breakpoint(layout: Layout, kprobes: Kprobes) -> None:
    """It lands (can_probe(), arch/x86/kernel/kprobes/core.c, 6.1): not the end of the function."""
    sites = evenly(behind_breakpoints(layout), SAMPLE)
    if not sites:
        pytest.skip(f"{layout.guest.name} has no breakpoints inside of functions")
    with kprobes.on(*sites) as probes:
        pass
    probes.prove()
