"""The command `pinpoint` of an installed Pinpoint: runs the launcher of the source tree with this Python."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from harness.core import paths


def main() -> NoReturn:
    """Replace this process by the launcher, which checks the host's packages and starts the command line."""
    environment = {**os.environ, "PINPOINT_PYTHON": sys.executable}
    os.execve("/bin/sh", ["sh", str(paths.PROJECT / "pinpoint"), *sys.argv[1:]], environment)
