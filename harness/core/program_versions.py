"""What programs say their versions are: asked once of each file, for starting a QEMU takes 50 ms."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError

_ANSWERING = 30.0


def first_line(program: str) -> str:
    """The first line of what `PROGRAM --version` prints. Raises HostError when the program is not in PATH."""
    found = shutil.which(program)
    if found is None:
        raise HostError(f"{program} is not installed", mend="run ./pinpoint doctor to see which package has it")
    # The package may be upgraded while a run goes on; its files are new ones then.
    now = Path(found).stat()
    return _asked(found, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


@functools.cache
def _asked(program: str, *_identity: int) -> str:
    return process.run([program, "--version"], deadline=Deadline.after(_ANSWERING)).output.partition("\n")[0]
