"""What only tests need from PyPI, installed once into the cache, with the versions and hashes that are locked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from harness.core import locks, paths, process
from harness.core.deadline import Deadline
from harness.core.files import sha256

_TESTS, _DECODERS = (paths.PROJECT / f"requirements-{name}.txt" for name in ("tests", "decoders"))
_STAMP = "complete"
# Taken when the tests are collected: a test may name another cache for what it runs.
_CACHE = paths.cache()
_SECONDS = 300.0


def install() -> None:
    """Make the packages of requirements-tests.txt importable in this process, behind Pinpoint's own.

    An AssertionError, which fails the test by name, states why they cannot be installed: nothing is skipped.
    """
    place = _installed(_TESTS)
    if str(place) not in sys.path:
        sys.path.append(str(place))


def directory_of_newest_capstone() -> Path:
    """Return the directory with the capstone of requirements-decoders.txt, for a process that imports no other one.

    An AssertionError states why it cannot be installed.
    """
    return _installed(_DECODERS)


def _installed(locked: Path) -> Path:
    name = locked.stem.removeprefix("requirements-")
    place = _CACHE / f"{name}-{sha256(locked)[:16]}-{sys.version_info.major}.{sys.version_info.minor}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with locks.hold_lock(_CACHE / f"{name}.lock", deadline=Deadline.after(_SECONDS), on_wait=lambda _: None):
        if not (place / _STAMP).exists():
            _fill(place, locked)
    return place


def _fill(place: Path, locked: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps", "--no-input"]
    options = ["--disable-pip-version-check", "--target", str(place), "--requirement", str(locked)]
    done = process.run([*pip, *options], deadline=Deadline.after(_SECONDS))
    assert done.rc == 0, f"{locked.name} cannot be installed: {done.output[-2000:]}"
    (place / _STAMP).touch()
