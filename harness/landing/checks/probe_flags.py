"""What the kernel made of a breakpoint: a jump once it has optimised it, a call where ftrace had one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from harness.core.deadline import Deadline
from harness.guest.guest import Guest
from harness.landing.landing import Missed
from harness.landing.probe_run import ProbeRun
from harness.landing.site import Site

# The optimiser waits for a quiet moment of every task (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_SECONDS = 30.0
_SETTING = "/proc/sys/debug/kprobes-optimization"


def apart(sites: Iterable[Site], distance: int) -> list[Site]:
    """Sites of one function, in order, without those that are nearer than that to the one before, in bytes."""
    kept: list[Site] = []
    for site in sites:
        if not kept or site.offset - kept[-1].offset >= distance:
            kept.append(site)
    return kept


@contextmanager
def unoptimized(guest: Guest) -> Iterator[None]:
    """Leave breakpoints as they are while the block runs, where the kernel would optimise them.

    The optimiser holds kprobe_mutex while it waits for every task (kprobe_optimizer(), kernel/kprobes.c, 6.1), so that
    registering 560 probes stood still for 9 of 15 s.
    """
    optimizes = guest.traits.optimized_kprobes
    if optimizes:
        guest.script(f"echo 0 >{_SETTING}").check()
    try:
        yield
    finally:
        if optimizes:
            guest.script(f"echo 1 >{_SETTING}").check()


def await_flag(probes: ProbeRun, flag: str) -> None:
    """Look until the kernel lists some of these probes with the flag, as it did a look before, and memory agrees.

    The flag alone is too early: it is set when the optimiser's work is queued (optimize_kprobe(), kernel/kprobes.c,
    6.1). Returns at once when one is not listed at all: there is nothing to wait for. Raises Missed after half a
    minute.
    """
    deadline = Deadline.after(_SECONDS)
    before: list[tuple[str, ...] | None] = []
    while not deadline.expired:
        flags = [_flags_at(probes, address) for address in probes.addresses]
        settled = flags == before and any(flag in (each or ()) for each in flags)
        if None in flags or (settled and not _contradiction(probes)):
            return
        before = flags
        probes.look_again()
    raise Missed(_contradiction(probes) or f"no probe became {flag} in {_SECONDS:.0f} s")


def expect_flag(probes: ProbeRun, flag: str, at_least: int) -> None:
    """Raise Missed unless so many are listed with the flag, and memory has what every probe's flag means there.

    What that is stands in the architecture table; without a flag it is the breakpoint.
    """
    wrong = _contradiction(probes)
    if wrong:
        raise Missed(wrong)
    with_flag = sum(flag in (_flags_at(probes, address) or ()) for address in probes.addresses)
    if with_flag < at_least:
        raise Missed(f"{with_flag} of {len(probes.sites)} probes are {flag}, not {at_least}")


def _contradiction(probes: ProbeRun) -> str:
    """The first probe where memory has not what its flag means; "" when there is none."""
    traits = probes.guest.architecture.kprobes
    for site, address, window in zip(probes.sites, probes.addresses, probes.windows, strict=True):
        flags = _flags_at(probes, address) or ()
        wanted = next((traits.flag_patches[each] for each in flags), traits.breakpoint)
        seen = window.during[address - window.start :][: len(wanted)]
        if seen != wanted:
            return f"{site}: listed with {flags or 'no flag'}, and memory has {seen.hex()}, not {wanted.hex()}"
    return ""


def _flags_at(probes: ProbeRun, address: int) -> tuple[str, ...] | None:
    """The flags that the kernel lists a probe there with, None when it lists none there."""
    return next((each.flags for each in probes.listed if each.address == address), None)
