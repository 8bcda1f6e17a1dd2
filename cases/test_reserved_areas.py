"""A kprobe on code that the kernel itself patches or traps on is EINVAL. The kernel's own tables list such code.

check_kprobe_address_safe() (kernel/kprobes.c, 6.1). The probes are registered disabled: the kernel refuses them before
it arms anything, and the guest survives a kernel that accepts such an address.
"""

import errno

import pytest

from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.code.function_selection import evenly_spread
from harness.landing.layout import Layout
from harness.landing.lookup import find_addresses_refusing_kprobes
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import freed_kernel_init_function_names
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

# How many of a kernel's thousands are tried.
SAMPLE = 64
DISABLED = ["disabled=1"]

pytestmark = [pytest.mark.requires("kprobes"), pytest.mark.mutants("registers-last", deep=("registers-anyway",))]


def expect_refused(kprobes: Kprobes, places: list[int], what: str) -> None:
    """Raise Missed unless probes on these addresses, or on a sample of them, are EINVAL."""
    if not places:
        pytest.skip(f"{kprobes.layout.guest.name} has no {what} in its text")
    expect_specs_refused(
        kprobes, *(f"@{place:#x}" for place in evenly_spread(places, SAMPLE)), wanted=errno.EINVAL, parameters=DISABLED
    )


def test_jump_labels(layout: Layout, kprobes: Kprobes) -> None:
    """A probe on the instruction of a static branch is EINVAL (jump_label_text_reserved())."""
    expect_refused(kprobes, find_addresses_refusing_kprobes.jump_label_addresses(layout), "jump labels")


def test_static_calls(layout: Layout, kprobes: Kprobes) -> None:
    """A probe on the instruction of a static call is EINVAL (static_call_text_reserved())."""
    expect_refused(kprobes, find_addresses_refusing_kprobes.static_call_addresses(layout), "static calls")


def test_bugs(layout: Layout, kprobes: Kprobes) -> None:
    """A probe on the trap of a BUG() or WARN() is EINVAL (find_bug())."""
    expect_refused(kprobes, find_addresses_refusing_kprobes.bug_trap_addresses(layout), "traps")


def test_freed_text(layout: Layout, kprobes: Kprobes) -> None:
    """A probe in the kernel's freed `.init.text` is EINVAL (core_kernel_text(), kernel/extable.c)."""
    places = [layout.symbol_start(Site(name)) for name in freed_kernel_init_function_names(layout)]
    expect_refused(kprobes, places, "freed text")


def test_module_jump_labels(target: Target, kprobes: Kprobes) -> None:
    """A probe on the instruction of a static branch in a module is EINVAL."""
    expect_refused(kprobes, find_addresses_refusing_kprobes.module_jump_label_addresses(target), "jump labels")
