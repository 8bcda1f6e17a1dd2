"""Versions of installed programs, cached for each file because starting a QEMU takes 50 ms."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

from harness.core import paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError

_ANSWER_SECONDS = 30.0
_NUMBER = re.compile(r"version (\d+)\.(\d+)")


def first_version_line(program: str) -> str:
    """Return the first line of `PROGRAM --version`. Raises HostError when the program is not in PATH."""
    found = shutil.which(program)
    if found is None:
        raise HostError(f"{program} is not installed", mend=f"run {paths.PROGRAM} doctor to see which package has it")
    # The package may be upgraded during a run; the file is then a new one.
    now = Path(found).stat()
    return _printed(found, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def program_version(program: str) -> str:
    """Return the version that the program prints, such as `11.1.3`; empty if it prints none.

    Raises as `first_version_line`.
    """
    found = re.search(r"version (\S+)", first_version_line(program))
    return found[1] if found else ""


def parse_major_minor(line: str) -> tuple[int, int] | None:
    """Return the major and minor version in such a line; None if the line has none."""
    found = _NUMBER.search(line)
    return (int(found[1]), int(found[2])) if found else None


@functools.cache
def _printed(program: str, *_identity: int) -> str:
    return process.run([program, "--version"], deadline=Deadline.after(_ANSWER_SECONDS)).output.partition("\n")[0]
