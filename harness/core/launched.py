"""When this run was launched, on a clock that nobody sets."""

from __future__ import annotations

import os
import time

# Set by the launcher, in seconds since the host booted (/proc/uptime), so that the figures count what it installed.
_BEGAN = "PINPOINT_BEGAN"


def at() -> float:
    """The launch on the monotonic clock, in seconds; now, where no launcher told."""
    now, began = time.clock_gettime(time.CLOCK_BOOTTIME), os.environ.get(_BEGAN)
    return time.monotonic() - (now - float(began) if began else 0.0)
