"""The packages of dask.distributed: those of the environment, or the locked ones, installed once into the cache."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from harness.core import locks, paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.files import sha256

LOCKED = paths.PROJECT / "requirements-hosts.txt"
_STAMP = "complete"
_INSTALLING = 300.0


def make_importable() -> Path | None:
    """Make dask.distributed importable in this process, behind Pinpoint's own packages.

    Return the directory to add to the module path of a child; None if the environment has the package. Raises HostError
    when the packages cannot be installed.
    """
    if importlib.util.find_spec("distributed"):
        return next((Path(each) for each in sys.path if Path(each).name.startswith("hosts-")), None)
    place = paths.cache() / f"hosts-{sha256(LOCKED)[:16]}-{sys.version_info.major}.{sys.version_info.minor}"
    paths.cache().mkdir(parents=True, exist_ok=True)
    with locks.hold_lock(paths.cache() / "hosts.lock", deadline=Deadline.after(_INSTALLING), on_wait=lambda _: None):
        if not (place / _STAMP).exists():
            _install(place)
    sys.path.append(str(place))
    importlib.invalidate_caches()
    return place


def _install(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps", "--no-input"]
    options = ["--disable-pip-version-check", "--target", str(place), "--requirement", str(LOCKED)]
    done = process.run([*pip, *options], deadline=Deadline.after(_INSTALLING))
    if done.rc:
        last = done.output.strip().splitlines()[-1:] or ["no reason given"]
        raise HostError(f"{LOCKED.name} cannot be installed: {last[0]}", mend="check the network and pip's settings")
    (place / _STAMP).touch()
