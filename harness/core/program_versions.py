"""What programs say their versions are: asked once of each file, for starting a QEMU takes 50 ms."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError

_ANSWERING = 30.0
_NUMBER = re.compile(r"version (\d+)\.(\d+)")


def first_line(program: str) -> str:
    """The first line of what `PROGRAM --version` prints. Raises HostError when the program is not in PATH."""
    found = shutil.which(program)
    if found is None:
        raise HostError(f"{program} is not installed", mend="run ./pinpoint doctor to see which package has it")
    # The package may be upgraded while a run goes on; its files are new ones then.
    now = Path(found).stat()
    return _asked(found, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def words(program: str) -> str:
    """The version as the program names it, `11.1.3`; empty where it names none. Raises as `first_line`."""
    found = re.search(r"version (\S+)", first_line(program))
    return found[1] if found else ""


def number(line: str) -> tuple[int, int] | None:
    """Major and minor version in such a line, None where it names none."""
    found = _NUMBER.search(line)
    return (int(found[1]), int(found[2])) if found else None


@functools.cache
def _asked(program: str, *_identity: int) -> str:
    return process.run([program, "--version"], deadline=Deadline.after(_ANSWERING)).output.partition("\n")[0]
