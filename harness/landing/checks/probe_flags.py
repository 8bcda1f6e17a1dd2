"""Checks of a kprobe's flags: the kernel replaces a breakpoint by a jump (optimized) or by a call (on ftrace)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.probe_run import ProbeRun
from harness.landing.site import Site

# The optimizer waits for an RCU-tasks grace period (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_SECONDS = 30.0
_SETTING = "/proc/sys/debug/kprobes-optimization"


def select_sites_apart(sites: Iterable[Site], distance: int) -> list[Site]:
    """Select sites of one function so that each is at least `distance` bytes after the one before."""
    kept: list[Site] = []
    for site in sites:
        if not kept or site.offset - kept[-1].offset >= distance:
            kept.append(site)
    return kept


@contextmanager
def optimization_off(guest: Guest) -> Iterator[None]:
    """Turn off the kernel's optimization of kprobes while the block runs, so that breakpoints stay as they are.

    The optimizer holds kprobe_mutex while it waits for every task (kprobe_optimizer(), kernel/kprobes.c, 6.1). This
    blocked the registration of 560 probes for 9 of 15 s.
    """
    optimizes = guest.traits.optimized_kprobes
    if optimizes:
        guest.run_script(f"echo 0 >{_SETTING}").check()
    try:
        yield
    finally:
        if optimizes:
            guest.run_script(f"echo 1 >{_SETTING}").check()


def await_flag(probes: ProbeRun, flag: str) -> None:
    """Wait until the kernel lists some of these probes with the flag twice in a row, unchanged, and memory agrees.

    The flag alone is set too early, when the optimizer's work is queued (optimize_kprobe(), kernel/kprobes.c, 6.1).
    Returns at once if a probe is not listed at all, because then there is nothing to wait for. Raises Missed after 30
    s.
    """
    deadline = probes.guest.scaled_deadline(_SECONDS)
    before: list[tuple[str, ...] | None] = []
    while not deadline.expired:
        flags = [_flags_at(probes, address) for address in probes.addresses]
        settled = flags == before and any(flag in (each or ()) for each in flags)
        if None in flags or (settled and not _contradiction(probes)):
            return
        before = flags
        probes.read_again()
    raise Missed(_contradiction(probes) or f"no probe became {flag} in {_SECONDS:.0f} s")


def expect_flag_and_matching_memory(probes: ProbeRun, flag: str, at_least: int) -> None:
    """Raise Missed unless `at_least` probes are listed with the flag and each probe's memory matches its flags.

    The architecture table has the bytes that each flag means; a probe without a flag is a breakpoint.
    """
    wrong = _contradiction(probes)
    if wrong:
        raise Missed(wrong)
    with_flag = sum(flag in (_flags_at(probes, address) or ()) for address in probes.addresses)
    if with_flag < at_least:
        raise Missed(f"{with_flag} of {len(probes.sites)} probes are {flag}, not {at_least}")


def _contradiction(probes: ProbeRun) -> str:
    """Describe the first probe whose memory does not match its flags; "" if there is none."""
    traits = probes.guest.architecture.kprobe_traits
    for site, address, window in zip(probes.sites, probes.addresses, probes.memory_windows, strict=True):
        flags = _flags_at(probes, address) or ()
        wanted = next(((traits.patch_by_flag[each],) for each in flags), traits.breakpoints)
        seen = window.during[address - window.start :]
        if not any(patch.matches(seen) for patch in wanted):
            first = seen[: max(len(patch.value) for patch in wanted)].hex()
            patches = " or ".join(patch.value.hex() for patch in wanted)
            return f"{site}: listed with {flags or 'no flag'}, but memory has {first}, not {patches}"
    return ""


def _flags_at(probes: ProbeRun, address: int) -> tuple[str, ...] | None:
    """The flags of the probe that the kernel lists at an address; None if it lists no probe there."""
    return next((each.flags for each in probes.listed_probes if each.address == address), None)
