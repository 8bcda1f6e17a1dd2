"""Where things live: the project, the cache outside it, the results of runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PROJECT = Path(__file__).resolve().parents[2]
RECIPES = PROJECT / "vm_images"
PROBES = PROJECT / "probes"
TESTS = PROJECT / "tests"
CASES = PROJECT / "cases"


def cache() -> Path:
    """The user's cache for Pinpoint: `$PINPOINT_CACHE`, else the platform's place for caches."""
    named = os.environ.get("PINPOINT_CACHE")
    return Path(named).resolve() if named else Path(platformdirs.user_cache_dir("pinpoint"))


def results() -> Path:
    """Where runs leave their results: `$PINPOINT_RESULTS`, else `results/` in the project."""
    named = os.environ.get("PINPOINT_RESULTS")
    return Path(named).resolve() if named else PROJECT / "results"
