"""Hands the error that ended a command to the process that started it, which must know whether the host failed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.core.errors import BuildError, HostError, PinpointError
from harness.core.files import write_text

# The file to write the error to.
VARIABLE = "PINPOINT_ERROR_FILE"


@dataclass(frozen=True)
class HandedOverError:
    """The line of an error; `of_host` is True if the host or the harness failed, and no build, recipe or guest."""

    line: str
    of_host: bool

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the error in a file; None if the command ended without one."""
        try:
            fields = json.loads(path.read_text())
            return cls(str(fields["line"]), bool(fields["of_host"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def take_file_from_environment() -> Path | None:
    """Return the file that this command's error goes to; the command's own children do not get it."""
    named = os.environ.pop(VARIABLE, "")
    return Path(named) if named else None


def hand_over(error: PinpointError, path: Path | None) -> None:
    """Write an error to the file, if there is one; a file that cannot be written is left out."""
    if path is None:
        return
    of_host = isinstance(error, HostError) and not isinstance(error, BuildError)
    try:
        write_text(path, json.dumps({"line": str(error), "of_host": of_host}))
    except OSError:
        return
