"""The module loader's stubs have the expected room before each section, and lead to the called functions.

arch/parisc/kernel/module.c (6.1): before each section is room for one stub more than the section has far calls.
"""

import pytest

from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.landing.checks.parisc_text_section_starts import expected_section_starts
from harness.landing.landing_judgment import Missed
from harness.landing.target import Target
from harness.pinning import doctored_modules
from harness.pinning.hold_module_in_state import TARGET as NEEDED

NEEDING = "pinpoint_depends"
# Bytes. A call of 17 bits reaches 256 KiB (R_PARISC_PCREL17F).
FAR = 0x80000

pytestmark = pytest.mark.requires("module_stubs")


def test_room_for_stubs(target: Target) -> None:
    """The distances between a module's text sections are those computed from their sizes, stubs and alignments."""
    expected = expected_section_starts(target.elf)
    seen = {name: target.sections[name] for name in expected if name in target.sections}
    first = min(seen, key=lambda name: seen[name])
    base = seen[first] - expected[first]
    wrong = {name: start - base for name, start in seen.items() if start - base != expected[name]}
    assert len(seen) > 1
    if wrong:
        places = ", ".join(f"{name} at {start:#x}, not {expected[name]:#x}" for name, start in wrong.items())
        raise Missed(f"from the start of the module's text: {places}")


def test_stubs_lead_to_what_is_called(guest: Guest) -> None:
    """A module that calls a function of another module far away gets the value that the function returns.

    probes/depends/main.c. A nearer call needs no stub (apply_relocate_add()). The call is in the initializer, whose
    sections the kernel allocates after the others (move_module(), kernel/module/main.c). Both parts are made so large
    that they stand in this order above the called function.
    """
    needed, needing = (Elf.read_cached(guest.image.modules[name]) for name in (NEEDED, NEEDING))
    assert "pinpoint_needed" in {each.name for each in needed.symbols}
    caller = doctored_modules.with_larger_sections(needing, (".bss", ".init.text"), FAR)
    guest.run("insmod", guest.copy_module(NEEDED)).check()
    try:
        loaded = guest.run("insmod", doctored_modules.copy_to_guest(guest, "far_caller", caller))
        guest.run("rmmod", NEEDING)
    finally:
        guest.run("rmmod", NEEDED).check()
    if loaded.rc:
        raise Missed(f"{NEEDING} gets another value than {NEEDED} returns: {loaded.stderr.strip()}")
