"""Directories of the project, of its cache and of the results of runs."""

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
    """Return the cache directory: `$PINPOINT_CACHE`, else the platform's cache directory for Pinpoint."""
    named = os.environ.get("PINPOINT_CACHE")
    return Path(named).resolve() if named else Path(platformdirs.user_cache_dir("pinpoint"))


def results() -> Path:
    """Return the directory of results: `$PINPOINT_RESULTS`, else `results/` in the project."""
    named = os.environ.get("PINPOINT_RESULTS")
    return Path(named).resolve() if named else PROJECT / "results"


def store_entry_or_path(path: Path) -> Path:
    """Return the entry of the store that contains a path, or the path itself: files of one entry need each other."""
    store, found = (cache() / "store").resolve(), path.resolve()
    return store / found.relative_to(store).parts[0] if found.is_relative_to(store) and found != store else path
