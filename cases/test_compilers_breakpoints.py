"""An instruction after a breakpoint that the compiler put into a function can be probed like any other.

In a kernel compiled with -mharden-sls=all, an int3 follows every return and every indirect jump.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import pytest

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.landing.code.function_selection import (
    evenly_spread,
    read_blacklist_ranges,
    text_functions_named_once,
)
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decode_function
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site

# How many functions are examined; how many of those with such a breakpoint are probed.
LOOKED_AT, SAMPLE = 2000, 24


@lru_cache(maxsize=8)
def behind_breakpoints(kernel: Elf, decoder: DecoderKind) -> Sequence[Site]:
    """Return the first instruction after an int3 inside a function, for many kernel functions: a second of work."""
    found = []
    for symbol in evenly_spread(text_functions_named_once(kernel), LOOKED_AT):
        try:
            code = decode_function(kernel, symbol, decoder)
        except PinpointError:
            # The function has bytes that are not instructions, such as templates (text_poke_early() on x86_64).
            continue
        for each, following in pairwise(code):
            inside = each.flow is Flow.ENDS and each.is_padding and following.flow is Flow.PLAIN
            if inside:
                found.append(Site(symbol.name, following.offset))
                break
    return found


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_behind_a_compilers_breakpoint(layout: Layout, kprobes: Kprobes) -> None:
    """A probe after such a breakpoint lands: the breakpoint is not the end of the function.

    can_probe(), arch/x86/kernel/kprobes/core.c, 6.1.
    """
    # The thunks of indirect calls are on the blacklist (__EXPORT_THUNK(), arch/x86/lib/retpoline.S, 7.3).
    refused = [range(start, end) for start, end in read_blacklist_ranges(layout.guest)]
    behind = behind_breakpoints(layout.kernel, layout.decoder)
    allowed = [site for site in behind if not any(layout.probe_address(site) in each for each in refused)]
    sites = evenly_spread(allowed, SAMPLE)
    if not sites:
        pytest.skip(f"{layout.guest.name} has no breakpoints inside of functions")
    with kprobes.on(*sites) as probes:
        pass
    probes.prove()
