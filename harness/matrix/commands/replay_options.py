"""What of a run's options changes what a cell does, so that a replay is given the same."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

import pytest

# hypothesis has its own option for what it draws with; without it nobody could draw the same again.
_SEED = "hypothesis_seed"


# Each that `options` gives; a bundle that asks for another is not of our making.
_OURS = re.compile(r"--(?:schedules?|stress|sweep|crash-triggers|accel|hypothesis-seed)=.*|--as-honest", re.DOTALL)


def foreign(options: Iterable[str]) -> str:
    """The first option that no run of ours writes down, empty where there is none: pytest's can run any code."""
    return next((option for option in options if not _OURS.fullmatch(option)), "")


def settle_seed(config: pytest.Config) -> None:
    """Draw the run's seed unless one is given: before hypothesis reads its option, and before workers inherit it."""
    if getattr(config.option, _SEED, "") is None:
        setattr(config.option, _SEED, str(secrets.randbits(32)))


def seed(config: pytest.Config) -> str:
    """What everything that is drawn in this run is drawn with; empty without hypothesis's plugin."""
    return str(getattr(config.option, _SEED, "") or "")


def options(config: pytest.Config) -> list[str]:
    """The options, defaults written out: they may be others one day."""
    given = config.option
    return [
        f"--schedules={given.schedules}",
        *(f"--schedule={line}" for line in given.schedule),
        f"--stress={given.stress}",
        f"--sweep={given.sweep}",
        f"--crash-triggers={given.crash_triggers}",
        *([f"--accel={given.accel}"] if given.accel else []),
        *(["--as-honest"] if given.as_honest else []),
        *([f"--hypothesis-seed={seed(config)}"] if seed(config) else []),
    ]
