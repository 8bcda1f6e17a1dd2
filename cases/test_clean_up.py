"""After the probe module is removed, nothing shows that it was loaded."""

import pytest

from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target

TIMES = 2


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("stays-registered")
def test_unload_leaves_nothing(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """After unloading, no kprobe and no module is left, and the probed functions' bytes are the originals.

    The bytes are read from outside the guest.
    """
    kernel = layout.called_kernel_function(3)
    sites = [
        *layout.once_per_call_sites(kernel, 3),
        *layout.once_per_call_sites(target.shape_site("leaf"), 3),
    ]
    with kprobes.on(*sites) as probes:
        target.call_for_checksum("leaf", TIMES)
        target.call_for_checksum(kernel.symbol, TIMES)
    probes.prove(hits=TIMES)
    probes.prove_gone()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("stays-registered")
def test_code_still_runs_the_same(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A function returns the same value before, during and after it is probed at its entry."""
    before = target.call_for_checksum("calls", TIMES)
    with kprobes.on(layout.entry_site(target.shape_site("calls"))) as probes:
        probed = target.call_for_checksum("calls", TIMES)
    probes.prove(hits=TIMES)
    probes.prove_gone()
    assert probed == before
    assert target.call_for_checksum("calls", TIMES) == before
