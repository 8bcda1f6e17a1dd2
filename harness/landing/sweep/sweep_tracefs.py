"""The same sites through tracefs: defined, enabled, disabled, removed. What a sweep is measured by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import readable
from harness.landing.site import Site

_TRACEFS = "/sys/kernel/tracing"
_EVENTS = f"{_TRACEFS}/kprobe_events"
_GROUP = "pinpoint_peer"
_SITES = "/tmp/pinpoint_peer"
_SECONDS = 600.0

# One write a definition, since the first that is refused ends a write of many (trace_parse_run_command(),
# kernel/trace/trace.c, 6.1); all events of the group at once for the rest, which is the fastest that tracefs offers.
_DEFINE = f'while read -r line; do echo "$line" >>{_EVENTS}; done <{_SITES} 2>/dev/null; grep -c {_GROUP}/ {_EVENTS}'
_ENABLE = f"echo 1 >{_TRACEFS}/events/{_GROUP}/enable"
_DISABLE = f"echo 0 >{_TRACEFS}/events/{_GROUP}/enable"
_REMOVE = f"sed -n 's#^[pr]:\\({_GROUP}/[^ ]*\\) .*#-:\\1#p' {_EVENTS} >{_SITES} && cat {_SITES} >>{_EVENTS}"


@dataclass(frozen=True)
class Peer:
    """What tracefs needed: seconds of the host's clock to define, enable, disable and remove `sites` events."""

    sites: int
    define: float
    enable: float
    disable: float
    remove: float

    @property
    def per_second(self) -> float:
        """Sites a second through the whole cycle."""
        return self.sites / (self.define + self.enable + self.disable + self.remove)


def not_offered(guest: Guest) -> str:
    """Why tracefs cannot be compared with here, "" when it can."""
    return "" if guest.run("test", "-e", _EVENTS).ok else "no kprobe events (CONFIG_KPROBE_EVENTS)"


def cycle(guest: Guest, sites: Sequence[Site]) -> Peer:
    """Take the sites through their whole life, once. Raises GuestError when tracefs takes fewer than half of them."""
    lines = "".join(f"p:{_GROUP}/s{number} {site.spec}\n" for number, site in enumerate(sites))
    guest.put(lines.encode(), _SITES)
    define, count = _timed(guest, _DEFINE)
    with readable("what tracefs prints"):
        defined = int(count)
    if defined < len(sites) / 2:
        raise GuestError(f"tracefs defines only {defined} of {len(sites)} sites", where=guest.name)
    enable, disable, remove = (_timed(guest, step)[0] for step in (_ENABLE, _DISABLE, _REMOVE))
    return Peer(defined, define, enable, disable, remove)


def _timed(guest: Guest, step: str) -> tuple[float, str]:
    began = time.monotonic()
    result = guest.script(step, guest.budget(_SECONDS)).check()
    return time.monotonic() - began, result.stdout.strip()
