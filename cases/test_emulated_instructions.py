"""Probed, a function computes what it does unprobed, also by instructions that a kernel does by hand.

Compares that come out equal, flags saved and restored, a carry made and used, a call through a high register, an
operand next to another one, branches on a bit and on a word (probes/target/emulated.c). Each function is probed by
itself, so that the guest survives a kernel that computes one of them wrong.
"""

import pytest

from harness.landing.checks.every_instruction import Everywhere
from harness.landing.checks.probe_flags import unoptimized
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target

# Each comparison is less, equal and greater in turn.
TIMES = 8


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
@pytest.mark.parametrize("shape", ["emulated", "carries", "reads_word", "register_call"])
def test_shape(layout: Layout, target: Target, kprobes: Kprobes, shape: str) -> None:
    """With a probe on every instruction that the kernel steps right, the function returns the same."""
    name = target.site(shape).symbol
    sites = [site for site in Everywhere(layout, target).stepped_right if site.symbol == name]
    unprobed = target.call(shape, TIMES)
    with unoptimized(target.guest), kprobes.on(*sites) as probes:
        probed = target.call(shape, TIMES)
    if probed != unprobed:
        raise Missed(f"{name} probed returns {probed}, not {unprobed}")
    probes.prove()
