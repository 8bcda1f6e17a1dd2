"""Deadlines of commands, fences and dialogues in a guest: only the time in which the host runs the guest counts.

A guest that had its time and did not answer is DeadlineExceeded, a hang. A guest that the host did not run is
GuestNotRun, a failure of the host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.core.deadline import LONGEST_LAP_SECONDS, Deadline
from harness.core.errors import GuestNotRun
from harness.guest.steal_time import GuestTime

# A host has failed if it takes more than this many times as long, and this many seconds, to run a guest for its limit.
_LONGEST_FACTOR = 10
_SHORTEST_SECONDS = 60.0
# Waits check their deadline once in a lap. If laps are much longer, it is this process that the host does not run.
_MOST_SECONDS_BETWEEN_LOOKS = 2 * LONGEST_LAP_SECONDS
# Looks that follow each other at once use the same values; reading them takes 0.2 ms.
_SHORTEST_LOOK = 0.02


class GuestRunClock:
    """The seconds that a guest has run while a caller waited for it. Safe to use from several threads."""

    def __init__(self, name: str, pid: int, is_guest_paused: Callable[[], bool]) -> None:
        self.name = name
        self._time = GuestTime(pid, is_guest_paused)
        self._ran = 0.0
        self._looked = time.monotonic()
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """Return the seconds; of the time since the last call, at most two laps of a wait count."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= _SHORTEST_LOOK:
                self._looked = now
                self._ran += min(self._time.seconds_since_last_call(), _MOST_SECONDS_BETWEEN_LOOKS)
            return self._ran

    def deadline_after(self, seconds: float) -> GuestRunDeadline:
        """Return a deadline that is exceeded when the guest has run for these seconds from now on."""
        now = time.monotonic()
        longest = max(seconds * _LONGEST_FACTOR, _SHORTEST_SECONDS)
        return GuestRunDeadline(now + longest, self, seconds, self.seconds() + seconds, now)


@dataclass(frozen=True)
class GuestRunDeadline(Deadline):
    """A deadline on a guest's clock; `monotonic_time` bounds the wait if the host does not run the guest.

    `remaining()`, and what uses it, raises GuestNotRun after `monotonic_time` if the guest has not had its time.
    """

    clock: GuestRunClock
    seconds: float
    limit: float
    began: float

    def remaining(self) -> float:
        """Return the seconds of guest run time left, at least zero. Raises GuestNotRun."""
        left = self.limit - self.clock.seconds()
        if left <= 0:
            return 0.0
        wall = super().remaining()
        if not wall:
            raise guest_not_run(self.clock.name, self.seconds - left, time.monotonic() - self.began)
        return min(left, wall)

    def earlier_of(self, seconds: float) -> GuestRunDeadline:
        """Return the earlier of this deadline and `seconds` of guest run time from now."""
        sooner = self.clock.deadline_after(seconds)
        return min(self, sooner, key=lambda each: each.limit)


def guest_not_run(name: str, ran: float, waited: float) -> GuestNotRun:
    """Return the error for a guest that ran for so few of the seconds in which it was waited for."""
    what = f"the host ran the guest for {ran:.0f} s of {waited:.0f} s"
    return GuestNotRun(what, where=name, mend="run fewer programs at the same time")
