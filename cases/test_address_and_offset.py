"""A kprobe given by an address and an offset lands at their sum, as one given by a symbol and an offset does.

_kprobe_addr() (kernel/kprobes.c, 6.1) adds kp.addr + kp.offset.
"""

from collections.abc import Sequence

import pytest

from harness.landing.layout import Layout
from harness.landing.probe_module import ProbeModuleRequest
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 3
BOUNDARIES = 3


def from_start(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """Request each site by the address of its function and the offset from that address to where it must land."""
    starts = [layout.symbol_start(site) for site in sites]
    offsets = [layout.address_to_request(site) - start for site, start in zip(sites, starts, strict=True)]
    return ProbeModuleRequest([f"@{start:#x}+{offset:#x}" for start, offset in zip(starts, offsets, strict=True)])


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_address_and_offset(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """In a kernel function and in a module's, the probe lands and is hit once for each call."""
    kernel = layout.called_kernel_function(BOUNDARIES)
    for name, site in (("leaf", target.shape_site("leaf")), (kernel.symbol, kernel)):
        with kprobes.on(*layout.once_per_call_sites(site, BOUNDARIES), relocation=from_start) as probes:
            target.call_for_checksum(name, TIMES)
        probes.prove(hits=TIMES)
