"""Defines, enables, disables and removes the sites of a sweep through tracefs, for comparison with the sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.site import Site

_TRACEFS = "/sys/kernel/tracing"
_EVENTS = f"{_TRACEFS}/kprobe_events"
_GROUP = "pinpoint_peer"
_SITES = "/tmp/pinpoint_peer"
_SECONDS = 600.0

# Each definition is a separate write, because a refused definition ends a write of many (trace_parse_run_command(),
# kernel/trace/trace.c, 6.1). The other steps act on all events of the group at once, which is the fastest way.
_DEFINE = f'while read -r line; do echo "$line" >>{_EVENTS}; done <{_SITES} 2>/dev/null; grep -c {_GROUP}/ {_EVENTS}'
_ENABLE = f"echo 1 >{_TRACEFS}/events/{_GROUP}/enable"
_DISABLE = f"echo 0 >{_TRACEFS}/events/{_GROUP}/enable"
_REMOVE = f"sed -n 's#^[pr]:\\({_GROUP}/[^ ]*\\) .*#-:\\1#p' {_EVENTS} >{_SITES} && cat {_SITES} >>{_EVENTS}"


@dataclass(frozen=True)
class TracefsSeconds:
    """The time that tracefs took to define, enable, disable and remove `site_count` events, in seconds of the host."""

    site_count: int
    define: float
    enable: float
    disable: float
    remove: float

    @property
    def sites_per_second(self) -> float:
        """Sites per second for the whole cycle."""
        return self.site_count / (self.define + self.enable + self.disable + self.remove)


def unavailable_reason(guest: Guest) -> str:
    """The reason why tracefs cannot be compared here; "" if it can."""
    return "" if guest.run("test", "-e", _EVENTS).ok else "no kprobe events (CONFIG_KPROBE_EVENTS)"


def time_cycle(guest: Guest, sites: Sequence[Site]) -> TracefsSeconds:
    """Define, enable, disable and remove the sites once. Raises GuestError if fewer than half can be defined."""
    lines = "".join(f"p:{_GROUP}/s{number} {site.spec}\n" for number, site in enumerate(sites))
    guest.put(lines.encode(), _SITES)
    define, count = _timed(guest, _DEFINE)
    with parsing_guest_text("what tracefs prints"):
        defined = int(count)
    if defined < len(sites) / 2:
        raise GuestError(f"tracefs accepted only {defined} of {len(sites)} sites", where=guest.name)
    enable, disable, remove = (_timed(guest, step)[0] for step in (_ENABLE, _DISABLE, _REMOVE))
    return TracefsSeconds(defined, define, enable, disable, remove)


def _timed(guest: Guest, step: str) -> tuple[float, str]:
    began = time.monotonic()
    result = guest.run_script(step, guest.scaled_deadline(_SECONDS)).check()
    return time.monotonic() - began, result.stdout.strip()
