"""A place that the kernel patches or traps on takes no kprobe: EINVAL. The kernel's own tables list the places.

check_kprobe_address_safe() (kernel/kprobes.c, 6.1). The probes are registered disabled: the kernel refuses them before
it arms anything, and the guest survives a kernel that accepts such a place.
"""

import errno

import pytest

from harness.landing.checks.refusals import expect_refusal
from harness.landing.code.functions import evenly
from harness.landing.layout import Layout
from harness.landing.lookup import reserved_places
from harness.landing.lookup.kallsyms import freed
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

# Of the thousands that a kernel has.
SAMPLE = 64
DISABLED = ["disabled=1"]

pytestmark = [pytest.mark.requires("kprobes"), pytest.mark.mutants("registers-anyway")]


def expect_refused(kprobes: Kprobes, places: list[int], what: str) -> None:
    """All of them, or a sample, are EINVAL by their address."""
    if not places:
        pytest.skip(f"{kprobes.layout.guest.name} has no {what} in its text")
    expect_refusal(
        kprobes, *(f"@{place:#x}" for place in evenly(places, SAMPLE)), wanted=errno.EINVAL, parameters=DISABLED
    )


def test_jump_labels(layout: Layout, kprobes: Kprobes) -> None:
    """The instruction of a static branch (jump_label_text_reserved())."""
    expect_refused(kprobes, reserved_places.jump_labels(layout), "jump labels")


def test_static_calls(layout: Layout, kprobes: Kprobes) -> None:
    """The instruction of a static call (static_call_text_reserved())."""
    expect_refused(kprobes, reserved_places.static_calls(layout), "static calls")


def test_bugs(layout: Layout, kprobes: Kprobes) -> None:
    """The trap of a BUG() or WARN() (find_bug())."""
    expect_refused(kprobes, reserved_places.bugs(layout), "traps")


def test_freed_text(layout: Layout, kprobes: Kprobes) -> None:
    """The kernel's `.init.text`, whose memory is long something else (core_kernel_text(), kernel/extable.c)."""
    places = [layout.start(Site(name)) for name in freed(layout)]
    expect_refused(kprobes, places, "freed text")


def test_module_jump_labels(target: Target, kprobes: Kprobes) -> None:
    """The instruction of a static branch in a module."""
    expect_refused(kprobes, reserved_places.module_jump_labels(target), "jump labels")
