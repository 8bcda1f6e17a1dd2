"""The options of a run that change what a cell does; a replay uses them again."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

import pytest

# hypothesis has its own option for the seed, without which a replay could not draw the same values.
_SEED = "hypothesis_seed"


# Each option that `options` returns; no run writes any other option into a bundle.
_OURS = re.compile(
    r"--(?:schedules|sweep|crash-triggers|accel)=[a-z-]{1,20}|--schedule=[\x20-\x7e]{0,4096}"
    r"|--loader=[\x20-\x7e]{1,4096}|--stress=[0-9]{1,6}|--hypothesis-seed=[0-9]{1,20}|--as-honest|--debug-symbols"
)


def first_unrecorded_option(options: Iterable[str]) -> str:
    """Return the first option that no run records, empty for none. Other pytest options could run arbitrary code."""
    return next((option for option in options if not _OURS.fullmatch(option)), "")


def draw_seed_unless_set(config: pytest.Config) -> None:
    """Draw the run's seed unless one is set. Call it before hypothesis reads its option and workers inherit it."""
    if getattr(config.option, _SEED, "") is None:
        setattr(config.option, _SEED, str(secrets.randbits(32)))


def seed(config: pytest.Config) -> str:
    """Return the seed of all random choices of this run; empty without hypothesis's plugin."""
    return str(getattr(config.option, _SEED, "") or "")


def options(config: pytest.Config) -> list[str]:
    """Return the options with defaults written out, because a later version may have other defaults."""
    option = config.option
    return [
        f"--schedules={option.schedules}",
        *(f"--schedule={line}" for line in option.schedule),
        f"--stress={option.stress}",
        f"--sweep={option.sweep}",
        f"--crash-triggers={option.crash_triggers}",
        *([f"--accel={option.accel}"] if option.accel else []),
        *([f"--loader={option.loader}"] if option.loader else []),
        *(["--as-honest"] if option.as_honest else []),
        *(["--debug-symbols"] if option.debug_symbols else []),
        *([f"--hypothesis-seed={seed(config)}"] if seed(config) else []),
    ]
