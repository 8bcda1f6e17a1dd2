"""A probe in the last function of a module lands like any other; the kernel must not read past the module's text."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.checks import between_functions
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decode_function
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.verdict.cell_verdict_enum import end_as_known_fail

# The text of the first module ends with an odd number of zeros up to the end of the page
# (probes/pinnable_target/things_that_hold_the_module.c), that of the second with an even number. Mutants are tried on
# the second, so that the guest survives.
UNEVEN, EVEN = "pinpoint_pins", "pinpoint_target"
# module_exit() gives the function this second name, and clang keeps no other (include/linux/module.h, 6.1).
_LAST = "cleanup_module"
Fresh = Callable[..., AbstractContextManager[Guest]]


def _last_instruction(layout: Layout, site: Site) -> Site:
    """The last instruction of the site's function that can be probed.

    It is not a breakpoint that the compiler put at the end, which the kernel takes for one of another debugger
    (__copy_instruction(), arch/x86/kernel/kprobes/core.c, 6.1), nor a delay slot of MIPS.
    """
    code = decode_function(*layout.elf_and_symbol(site), layout.decoder)
    probed = (each for each in code if each.flow is not Flow.REFUSED)
    return site.at_offset([each.offset for each in probed if not (each.flow is Flow.ENDS and each.is_padding)][-1])


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
def test_last_function(guest: Guest, fresh: Fresh, kprobes_in: Callable[..., Kprobes], mutant: str) -> None:
    """The probe lands, though the zeros up to the end of the page do not decode to whole instructions on x86.

    can_optimize() (arch/x86/kernel/kprobes/opt.c) decodes a function to its end, and kallsyms reports the end of the
    text as that end. If a module's text has a mapping of its own (since 6.4), the decoder reads past the mapping and
    the kernel oopses.
    """
    dies = False
    with nullcontext(guest) if mutant else fresh(may_die=True) as other:
        target = Target(other, EVEN if mutant else UNEVEN)
        target.load()
        layout = Layout(other, [target])
        deadly = other.traits.optimized_kprobes and not between_functions.is_mapped_behind_text(layout, target.module)
        probes = kprobes_in(other, target).on(_last_instruction(layout, Site(_LAST, module=target.module)))
        try:
            with probes:
                pass
        except GuestError:
            other.read_output_since_fence(other.scaled_deadline(60))
            dies = deadly and "can_optimize+0x" in other.console.text()
            if not dies:
                raise
        else:
            target.unload()
    if dies:
        end_as_known_fail("arch/x86/kernel/kprobes/opt.c:can_optimize() (6.12): decodes past a module's mapped text")
    probes.prove()
    if deadly:
        raise Missed("the kernel does not decode past the end of the text; was it fixed?")
