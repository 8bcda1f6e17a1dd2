"""Caches, results and logs that only their owner may read: they contain consoles and perhaps a mirror's password."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from harness.core import paths

_OTHERS = 0o077
# What Pinpoint itself makes in a cache and among results. Names that begin with a period are temporary.
_IN_CACHE = re.compile(
    r"apt|bench(-.*|\.lock)|bisect|bytecode|canary|ccache|durations\.json|environment\.lock|given|logs|pytest|sources"
    r"|store|tests(-.*|\.lock)|venv-.*|work|\..*"
)
_IN_RESULTS = re.compile(r"\d{8}-\d{6}-.*|history\.sqlite.*|kernel-mutants|latest|replays|\..*")


def keep_files_private() -> None:
    """Create files for their owner alone from now on, and close an existing cache and existing results to others.

    Earlier versions created them with the user's umask. What is below a directory that others may not enter needs no
    change.
    """
    os.umask(_OTHERS)
    for directory, ours in ((paths.cache(), _IN_CACHE), (paths.results(), _IN_RESULTS)):
        # Another user's directory is that user's to close.
        with contextlib.suppress(OSError):
            _close(directory, ours)


def _close(directory: Path, ours: re.Pattern[str]) -> None:
    """Close a directory to others; if it contains anything else, such as /tmp, close what is ours in it."""
    if not directory.stat().st_mode & _OTHERS:
        return
    entries = list(directory.iterdir())
    if all(ours.fullmatch(entry.name) for entry in entries):
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) & ~_OTHERS)
        return
    for entry in entries:
        if ours.fullmatch(entry.name) and not entry.name.startswith(".") and not entry.is_symlink():
            with contextlib.suppress(OSError):
                entry.chmod(stat.S_IMODE(entry.stat().st_mode) & ~_OTHERS)
