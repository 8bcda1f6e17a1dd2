"""Operations on registered probes: remove one of several, register one a second time, disable and enable."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from harness.landing import probe_module
from harness.landing.landing_judgment import Missed
from harness.landing.probe_run import ProbeRun

# The kernel removes a jump some ticks after its probe is disabled (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_SECONDS = 10.0
_PARAMETERS = f"/sys/module/{probe_module.MODULE}/parameters"


def call_unregister_kprobe(probes: ProbeRun, index: int) -> None:
    """Unregister one of the probes, by its index among the sites; the others stay."""
    probes.guest.run_script(f"echo {index} >{_PARAMETERS}/remove").check()
    probes.unregistered += 1


def expect_second_registration_refused(probes: ProbeRun, index: int) -> None:
    """Raise Missed unless the kernel returns EINVAL when a registered probe is registered again."""
    answer = probes.guest.run_script(f"echo {index} >{_PARAMETERS}/again")
    if answer.rc == 0 or os.strerror(errno.EINVAL) not in answer.stderr:
        raise Missed(f"{probes.sites[index]} a second time: {answer.stderr.strip() or 'registered'}, not EINVAL")


def expect_hit_counts(probes: ProbeRun, hits: Sequence[int]) -> None:
    """Raise Missed unless the probes have these numbers of hits, in the order of the sites."""
    seen = [landing.hits for landing in probes.landings]
    if seen != list(hits):
        raise Missed(f"{probes.sites[0]}: hit {seen} times, not {list(hits)}")


def call_disable_kprobe(probes: ProbeRun, index: int) -> None:
    """Call disable_kprobe() for one of the probes, by its index among the sites. Raises Missed if it fails."""
    _write(probes, "disable", index)


def call_enable_kprobe(probes: ProbeRun, index: int) -> None:
    """Call enable_kprobe() for one of the probes, by its index among the sites. Raises Missed if it fails."""
    _write(probes, "enable", index)


def disable_then_enable_another(probes: ProbeRun, disarmed: int, armed: int) -> None:
    """Disable one of the probes and enable another directly after it. Raises Missed if either fails."""
    answer = probes.guest.run_script(f"echo {disarmed},{armed} >{_PARAMETERS}/swap")
    if answer.rc:
        raise Missed(f"{probes.sites[disarmed]} disabled, {probes.sites[armed]} enabled: {answer.stderr.strip()}")


def expect_enable_refused(probes: ProbeRun, index: int) -> None:
    """Raise Missed unless the kernel returns EINVAL when a probe is enabled."""
    answer = probes.guest.run_script(f"echo {index} >{_PARAMETERS}/enable")
    if answer.rc == 0 or os.strerror(errno.EINVAL) not in answer.stderr:
        raise Missed(f"{probes.sites[index]}: {answer.stderr.strip() or 'enabled'}, not EINVAL")


def expect_disabled_never_hit(probes: ProbeRun) -> None:
    """Raise Missed unless each probe is at its address, disabled and never hit, and memory is as before."""
    _demand_disarmed(probes)
    for site, address, report in zip(probes.sites, probes.addresses, probes.final_reports, strict=True):
        if (report.errno, report.address, report.hits) != (0, address, 0):
            raise Missed(f"{site}: {report}, not registered at {address:#x} without hits")


def expect_disabled_and_bytes_restored(probes: ProbeRun) -> None:
    """Raise Missed unless all probes are listed as disabled, and memory is as before.

    Only a kernel that makes jumps of breakpoints is given time for it, 10 s.
    """
    deadline = probes.guest.scaled_deadline(_SECONDS if probes.guest.traits.optimized_kprobes else 0.0)
    probes.read_again()
    while not deadline.expired and any(window.before != window.during for window in probes.memory_windows):
        probes.read_again()
    _demand_disarmed(probes)


def _demand_disarmed(probes: ProbeRun) -> None:
    for site, address, window in zip(probes.sites, probes.addresses, probes.memory_windows, strict=True):
        flags = [each.flags for each in probes.listed_probes if each.address == address]
        if not flags or any("[DISABLED]" not in each for each in flags):
            raise Missed(f"{site}: listed with {flags}, not as disabled")
        if window.before != window.during:
            raise Missed(f"{site}: disabled, but {window.before.hex()} became {window.during.hex()}")


def _write(probes: ProbeRun, parameter: str, index: int) -> None:
    answer = probes.guest.run_script(f"echo {index} >{_PARAMETERS}/{parameter}")
    if answer.rc:
        raise Missed(f"{probes.sites[index]}: {parameter}: {answer.stderr.strip()}")
