"""Deadlines that callers pass down, so that nested waits share one time budget."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from harness.core.errors import DeadlineExceeded

# A wait for a guest checks its deadline at least this often: the deadline may be on the guest's clock.
LONGEST_LAP_SECONDS = 1.0
_SHORTEST_LAP_SECONDS = 0.001


@dataclass(frozen=True)
class Deadline:
    """A point on the monotonic clock, in seconds, at which a wait must end."""

    monotonic_time: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, at least zero."""
        return max(0.0, self.monotonic_time - time.monotonic())

    @property
    def expired(self) -> bool:
        """True once no time is left."""
        return self.remaining() == 0.0

    def lap_seconds(self) -> float:
        """Return how long a wait may last before it checks `expired` again."""
        return min(max(self.remaining(), _SHORTEST_LAP_SECONDS), LONGEST_LAP_SECONDS)

    def wait(self, event: threading.Event) -> bool:
        """Wait for an event; return False if the deadline comes first."""
        while not event.wait(self.lap_seconds()):
            if self.expired:
                return event.is_set()
        return True

    def earlier_of(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.monotonic_time, time.monotonic() + seconds))

    def require_time_left(self, what: str) -> None:
        """Raise DeadlineExceeded if no time is left; `what` names the awaited event."""
        if self.expired:
            raise DeadlineExceeded(f"{what} did not happen in time")


# The launcher sets this to seconds since the host booted (/proc/uptime), so that run times include the installation.
_BEGAN = "PINPOINT_BEGAN"


def launched_at() -> float:
    """Return the launch time on the monotonic clock, in seconds; the current time if no launcher set it."""
    now, began = time.clock_gettime(time.CLOCK_BOOTTIME), os.environ.get(_BEGAN)
    return time.monotonic() - (now - float(began) if began else 0.0)
