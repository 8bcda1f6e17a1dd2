"""When this run was launched, on a clock that does not jump."""

from __future__ import annotations

import os
import time

# Set by the launcher, in seconds since the epoch, so that the figures count what it installed.
_BEGAN = "PINPOINT_BEGAN"


def at() -> float:
    """The launch on the monotonic clock, in seconds; now, where no launcher told. The wall's clock is read but here."""
    began = os.environ.get(_BEGAN)
    before = max(0.0, time.time() - float(began)) if began else 0.0
    return time.monotonic() - before
