"""A probed function returns the same as unprobed, even where the kernel emulates the probed instruction.

The functions compare equal values, save and restore flags, set and use a carry, call through a high register, use
adjacent operands, and branch on a bit and on a word (probes/target/emulated.c). Each function is probed separately, so
that the guest survives a kernel that emulates one of them incorrectly.
"""

import pytest

from harness.landing.checks.every_instruction import EveryInstructionSites
from harness.landing.checks.probe_flags import optimization_off
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target

# Each comparison is less, equal and greater in turn.
TIMES = 8


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported")
@pytest.mark.parametrize("shape", ["emulated", "carries", "reads_word", "register_call"])
def test_shape(layout: Layout, target: Target, kprobes: Kprobes, shape: str) -> None:
    """With a probe on every instruction that the kernel steps correctly, the function returns the same value."""
    name = target.shape_site(shape).symbol
    sites = [site for site in EveryInstructionSites(layout, target).correctly_stepped_sites if site.symbol == name]
    unprobed = target.call_for_checksum(shape, TIMES)
    with optimization_off(target.guest), kprobes.on(*sites) as probes:
        probed = target.call_for_checksum(shape, TIMES)
    if probed != unprobed:
        raise Missed(f"{name} probed returns {probed}, not {unprobed}")
    probes.prove()
