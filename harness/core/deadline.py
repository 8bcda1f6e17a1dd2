"""A deadline is handed down, so that nested waits share one budget."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from harness.core.errors import DeadlineExceeded


@dataclass(frozen=True)
class Deadline:
    """A point on the monotonic clock, in seconds, by which something must have happened."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """True once nothing is left."""
        return self.remaining() == 0.0

    def sooner(self, seconds: float) -> Deadline:
        """This deadline or `seconds` from now, whichever comes first."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def demand(self, what: str) -> None:
        """Raise DeadlineExceeded, naming what was waited for, if nothing is left."""
        if self.expired:
            raise DeadlineExceeded(f"{what} did not happen in time")


# Set by the launcher, in seconds since the host booted (/proc/uptime), so that the figures count what it installed.
_BEGAN = "PINPOINT_BEGAN"


def launched_at() -> float:
    """The launch on the monotonic clock, in seconds; now, where no launcher told."""
    now, began = time.clock_gettime(time.CLOCK_BOOTTIME), os.environ.get(_BEGAN)
    return time.monotonic() - (now - float(began) if began else 0.0)
