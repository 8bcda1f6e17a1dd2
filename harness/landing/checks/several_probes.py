"""What is done to probes while they stand: taken away one by one, registered once more, disarmed and armed again."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from harness.core.deadline import Deadline
from harness.landing import probe_module
from harness.landing.landing import Missed
from harness.landing.probe_run import ProbeRun

# A jump goes some ticks after its probe is disabled (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_SECONDS = 10.0
_PARAMETERS = f"/sys/module/{probe_module.MODULE}/parameters"


def remove(probes: ProbeRun, index: int) -> None:
    """Unregister one of the probes, by its place among the sites; the others stay."""
    probes.guest.script(f"echo {index} >{_PARAMETERS}/remove").check()


def expect_no_second_time(probes: ProbeRun, index: int) -> None:
    """Raise Missed unless the kernel answers EINVAL when a probe is registered that already is."""
    answer = probes.guest.script(f"echo {index} >{_PARAMETERS}/again")
    if answer.rc == 0 or os.strerror(errno.EINVAL) not in answer.stderr:
        raise Missed(f"{probes.sites[index]} a second time: {answer.stderr.strip() or 'registered'}, not EINVAL")


def expect_hits(probes: ProbeRun, hits: Sequence[int]) -> None:
    """Raise Missed unless the probes were hit so often, in the order of the sites."""
    seen = [landing.hits for landing in probes.landings]
    if seen != list(hits):
        raise Missed(f"{probes.sites[0]}: hit {seen} times, not {list(hits)}")


def disable(probes: ProbeRun, index: int) -> None:
    """disable_kprobe() for one of the probes, by its place among the sites. Raises Missed when the kernel refuses."""
    _write(probes, "disable", index)


def enable(probes: ProbeRun, index: int) -> None:
    """enable_kprobe() for one of the probes. Raises Missed when the kernel refuses."""
    _write(probes, "enable", index)


def swap(probes: ProbeRun, disarmed: int, armed: int) -> None:
    """Disable one of the probes and enable another at once. Raises Missed when the kernel refuses."""
    answer = probes.guest.script(f"echo {disarmed},{armed} >{_PARAMETERS}/swap")
    if answer.rc:
        raise Missed(f"{probes.sites[disarmed]} disabled, {probes.sites[armed]} enabled: {answer.stderr.strip()}")


def expect_not_enabled(probes: ProbeRun, index: int) -> None:
    """Raise Missed unless the kernel answers EINVAL when a probe is enabled."""
    answer = probes.guest.script(f"echo {index} >{_PARAMETERS}/enable")
    if answer.rc == 0 or os.strerror(errno.EINVAL) not in answer.stderr:
        raise Missed(f"{probes.sites[index]}: {answer.stderr.strip() or 'enabled'}, not EINVAL")


def expect_silent(probes: ProbeRun) -> None:
    """Raise Missed unless each was registered at its address, disabled, and never hit, and memory is as before."""
    _demand_disarmed(probes)
    for site, address, report in zip(probes.sites, probes.addresses, probes.reports, strict=True):
        if (report.errno, report.address, report.hits) != (0, address, 0):
            raise Missed(f"{site}: {report}, not registered at {address:#x} and silent")


def expect_disarmed(probes: ProbeRun) -> None:
    """Raise Missed unless all are listed as disabled, and memory is as before, now or in some ticks."""
    deadline = Deadline.after(_SECONDS)
    probes.look_again()
    while not deadline.expired and any(window.before != window.during for window in probes.windows):
        probes.look_again()
    _demand_disarmed(probes)


def _demand_disarmed(probes: ProbeRun) -> None:
    for site, address, window in zip(probes.sites, probes.addresses, probes.windows, strict=True):
        flags = [each.flags for each in probes.listed if each.address == address]
        if not flags or any("[DISABLED]" not in each for each in flags):
            raise Missed(f"{site}: listed with {flags}, not as disabled")
        if window.before != window.during:
            raise Missed(f"{site}: disabled, and {window.before.hex()} became {window.during.hex()}")


def _write(probes: ProbeRun, parameter: str, index: int) -> None:
    answer = probes.guest.script(f"echo {index} >{_PARAMETERS}/{parameter}")
    if answer.rc:
        raise Missed(f"{probes.sites[index]}: {parameter}: {answer.stderr.strip()}")
