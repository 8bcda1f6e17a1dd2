"""Parts of a failed cell's bundle that the report shows: the failure with its traces, and the end of the console."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from harness.report.failure_evidence import CONSOLE
from harness.report.record import Cell
from harness.report.untrusted_bundle_reader import BundleFiles, NotInBundle
from harness.verdict.printk import without_control_codes

FAILURE = "failure.txt"
# Bytes read of a file, and characters and bundles shown: the report stays small when a whole row failed.
_LARGEST = 16 << 20
_SHOWN = {FAILURE: 6000, CONSOLE: 3000}
_MOST_BUNDLES = 200
_MOST_CHARACTERS = 500_000
# A line of the harness itself: after each cell it shows that the console has been read so far.
_FENCE = re.compile(r"^(?:\[ *\d+\.\d+\] )?pinpoint: fence [0-9a-f]{16}\s*\n", re.M)


class ExcerptReader:
    """Reads excerpts of at most 200 bundles and 500,000 characters; of the others the report shows the reason."""

    def __init__(self, directory: Path) -> None:
        """`directory` is what the bundles' paths are relative to."""
        self._directory = directory
        self._bundles_left, self._characters_left = _MOST_BUNDLES, _MOST_CHARACTERS

    def read_failure_and_console(self, cell: Cell) -> Mapping[str, str]:
        """`failure` and `console` of a cell's bundle: empty without one, or the reason why it cannot be read."""
        if not cell.bundle or self._bundles_left <= 0 or self._characters_left <= 0:
            return {}
        self._bundles_left -= 1
        try:
            files = BundleFiles(self._directory / cell.bundle)
        except (OSError, ValueError) as error:
            return {"failure": f"its bundle cannot be read: {_why(error)}"}
        with contextlib.closing(files):
            found = {"failure": _read(files, FAILURE), "console": _read(files, CONSOLE)}
        if found["failure"].strip() == cell.reason:
            del found["failure"]
        self._characters_left -= sum(map(len, found.values()))
        return {name: text for name, text in found.items() if text}


def _read(files: BundleFiles, name: str) -> str:
    """The begin of the failure, the end of the console; empty where the bundle has no such file."""
    try:
        text = without_control_codes(files.read(name, _LARGEST).decode(errors="replace"))
    except FileNotFoundError:
        return ""
    except (NotInBundle, OSError, ValueError) as error:
        return f"{name} of its bundle cannot be read: {_why(error)}"
    if name == CONSOLE:
        text = _FENCE.sub("", text)
    shown = _SHOWN[name]
    if len(text) <= shown:
        return text
    if name == CONSOLE:
        # Whole lines: the first one shown may be cut.
        return "...\n" + text[-shown:].partition("\n")[2]
    return text[:shown].rpartition("\n")[0] + "\n..."


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
