"""A probe in the last function of a module lands like any other: what stands behind is not the kernel's to read."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.checks import between_functions
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.verdict import known_fail

# Of the first, the text ends with an odd number of zeros up to the end of the page (probes/pins/main.c), of the second
# with an even one: a mutant is tried there, in a guest that shall live.
UNEVEN, EVEN = "pinpoint_pins", "pinpoint_target"
Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_last_function(guest: Guest, fresh: Fresh, kprobes_in: Callable[..., Kprobes], mutant: str) -> None:
    """It lands, though zeros follow up to the end of the page, which are half an instruction too many on x86.

    can_optimize() (arch/x86/kernel/kprobes/opt.c) decodes a function to its end, which by kallsyms is the end of the
    text: where a module's text is mapped by itself (since 6.4) it reads on behind the mapping, and oopses.
    """
    dies = False
    with nullcontext(guest) if mutant else fresh(may_die=True) as other:
        target = Target(other, EVEN if mutant else UNEVEN)
        target.load()
        layout = Layout(other, [target])
        deadly = other.traits.optimized_kprobes and not between_functions.mapped_behind(layout, target.module)
        probes = kprobes_in(other, target).on(
            layout.boundaries(Site(f"{target.module}_exit", module=target.module))[-1]
        )
        try:
            with probes:
                pass
        except GuestError:
            other.fence(Deadline.after(60))
            dies = deadly and "can_optimize+0x" in other.console.text()
            if not dies:
                raise
        else:
            target.unload()
    if dies:
        known_fail("arch/x86/kernel/kprobes/opt.c:can_optimize() (6.12): decodes on behind a module's mapped text")
    probes.prove()
    if deadly:
        raise Missed("the kernel does not decode on behind the text; is it mended?")
