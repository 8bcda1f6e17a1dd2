"""What of a run's options changes what a cell does, so that a replay is given the same."""

from __future__ import annotations

import secrets

import pytest

# hypothesis has its own option for what it draws with; without it nobody could draw the same again.
_SEED = "hypothesis_seed"


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
        f"--crimes={given.crimes}",
        *([f"--accel={given.accel}"] if given.accel else []),
        *(["--as-honest"] if given.as_honest else []),
        *([f"--hypothesis-seed={seed(config)}"] if seed(config) else []),
    ]
