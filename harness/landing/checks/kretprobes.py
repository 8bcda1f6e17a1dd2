"""Checks of kretprobes: the module that registers them, and the entries and returns that it counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.landing.code.instructions import first_accepted_offset
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_module import ProbeModuleRequest
from harness.landing.probe_run import ProbeRun
from harness.landing.site import Site
from harness.landing.target import Target

MODULE = "pinpoint_returns"
# A target's functions return 32 bits; the register may be wider.
_VALUE = 0xFFFFFFFF
_CHECKSUM = re.compile(r"value=0x([0-9a-f]+)")


def kretprobe_module_request(_: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """A request for kretprobes in place of kprobes: `kprobes.on(site, relocation=returns.by_symbol)`."""
    return ProbeModuleRequest([site.spec for site in sites], module=MODULE)


def site_with_free_entry(layout: Layout, target: Target, shape: str) -> Site:
    """The entry of a shape, or of `calls` where ftrace occupies the shape's first instruction and none can be probed.

    That is so in a module of MIPS, for a function without a prologue; `calls` saves its return address first.
    """
    site = target.shape_site(shape)
    occupied = first_accepted_offset(*layout.elf_and_symbol(site), layout.decoder)
    return target.shape_site("calls") if occupied else site


def expect_returns(probes: ProbeRun, times: int) -> None:
    """Raise Missed unless each kretprobe counted `times` entries and `times` returns, and missed none."""
    for site, report in zip(probes.sites, probes.final_reports, strict=True):
        if (report.hits, report.return_count, report.missed) != (times, times, 0):
            counted = f"{report.hits} entries, {report.return_count} returns, {report.missed} missed of {times}"
            raise Missed(f"{site}: {counted}")


def expect_listed_as_kretprobes(probes: ProbeRun) -> None:
    """Raise Missed unless the kernel lists each probe as a kretprobe, `r`, not as a kprobe, `k`."""
    for site, address in zip(probes.sites, probes.addresses, strict=True):
        if "r" not in [each.kind for each in probes.listed_probes if each.address == address]:
            raise Missed(f"{site}: not listed as a kretprobe: {probes.listed_probes}")


def expect_returned_value(probes: ProbeRun, result: str) -> None:
    """Raise Missed unless the kretprobe saw the value that a single call returned (Target.call_for_checksum())."""
    found = _CHECKSUM.search(result)
    seen = probes.final_reports[0].returned_value & _VALUE
    if found is None or int(found[1], 16) != seen:
        raise Missed(f"{probes.sites[0]}: the kretprobe saw {seen:#x}, the caller {result}")
