"""Relocation by hand places every function of a kernel, and the kernel registers a kprobe on each at that address.

The trials of test_by_hand.py register a sample. Here every function is registered, on the VMs whose kernel has a
section for each function. One of them is a core VM, so `./pinpoint test` registers every function of one kernel.
"""

from collections.abc import Callable

import pytest

from harness.landing.checks.register_by_hand import prove_registered_by_hand
from harness.landing.checks.relocation_by_hand_trial import Trial
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST
from harness.landing.probe_run import Kprobes
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.systemtap_relocation_by_hand import RelocationByHandCalculator
from harness.report.metrics_with_goals import Figure


@pytest.mark.deep
@pytest.mark.requires("kprobes", "kernel_function_sections")
@pytest.mark.mutants("misplaces-one")
def test_every_function_by_hand(layout: Layout, kprobes: Kprobes, figure: Callable[..., Figure]) -> None:
    """The kernel lists each kprobe under the function's own name, on the kernel that the distances were taken from."""
    trial = Trial.of_kernel(layout, "own-kernel", layout.guest.name, RelocationByHandCalculator(layout))
    by_hand = prove_registered_by_hand(trial, Depth.KERNEL, kprobes.mutant)
    figure("byhand.every.tried", by_hand.tried, "functions")
    figure("byhand.every.registered", by_hand.registered, "functions")
    assert kprobes.mutant is not HONEST or by_hand.tried == len(trial.functions)
