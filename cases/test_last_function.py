"""A probe in the last function of a module lands like any other: what stands behind is not the kernel's to read."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing import outskirts
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probing import ProbingIn
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.known import known_fail

# Its text ends with an odd number of zeros up to the end of the page (probes/pins_main.c).
MODULE, LAST = "pinpoint_pins", "pinpoint_pins_exit"
Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_last_function(guest: Guest, fresh: Fresh, probing_in: Callable[..., ProbingIn], mutant: str) -> None:
    """It lands, though zeros follow up to the end of the page, which are half an instruction too many on x86.

    can_optimize() (arch/x86/kernel/kprobes/opt.c) decodes a function to its end, which kallsyms says is the end of the
    text: where a module's text is mapped by itself (since 6.4) it reads on behind the mapping, and oopses.
    """
    with nullcontext(guest) if mutant else fresh(may_die=True) as other, Target(other, MODULE) as target:
        layout = Layout(other, [target])
        deadly = other.image.recipe.traits.optimized_kprobes and not outskirts.mapped_behind(layout, MODULE)
        inner = layout.boundaries(Site(LAST, module=MODULE))[-1]
        try:
            with probing_in(other, target).on(inner) as probes:
                pass
        except GuestError:
            if not deadly:
                raise
            assert "can_optimize+0x" in other.console.text()
            known_fail("arch/x86/kernel/kprobes/opt.c:can_optimize() (6.12): decodes on behind a module's mapped text")
        probes.prove()
        if deadly and not mutant:
            raise Missed("the kernel does not decode on behind the text; is it mended?")
