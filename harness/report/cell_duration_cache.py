"""The last duration of each cell, kept in the user's cache, so that the slowest rows of a run begin first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from harness.core.files import write_text
from harness.report.record import Cell

_SHAPE = TypeAdapter(dict[str, dict[str, FiniteFloat]])


# The entry of tests that are no cells. No VM has an empty name.
_TESTS = ""


def save_seconds(path: Path, cells: Iterable[Cell]) -> None:
    """Write the seconds of these cells; the seconds of other cells stay as they are."""
    known = {vm: dict(cases) for vm, cases in seconds_by_vm_and_cell(path).items()}
    for cell in cells:
        known.setdefault(cell.vm, {})[case_and_mutant_key(cell.case, cell.mutant)] = cell.seconds
    write_text(path, as_json(known))


def save_test_seconds(path: Path, seconds: Mapping[str, float]) -> None:
    """Write the mean seconds of a test by file of tests; all others stay as they are."""
    if seconds:
        known = {vm: dict(cases) for vm, cases in seconds_by_vm_and_cell(path).items()}
        known[_TESTS] = {**known.get(_TESTS, {}), **seconds}
        write_text(path, as_json(known))


def as_json(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Return the text of a file of seconds."""
    return json.dumps(seconds, indent=1, sort_keys=True)


def case_and_mutant_key(case: str, mutant: str) -> str:
    """Return the key of a cell's seconds."""
    return f"{case} {mutant}".strip()


def seconds_by_vm(path: Path) -> Mapping[str, float]:
    """Return the sum of the seconds of all known cells, by VM."""
    return {vm: sum(cases.values()) for vm, cases in seconds_by_vm_and_cell(path).items()}


def seconds_by_vm_and_cell(path: Path) -> Mapping[str, Mapping[str, float]]:
    """Return the seconds of all known cells by VM and `case_and_mutant_key()`.

    Empty when the file is missing or cannot be read, because durations only save time.
    """
    try:
        return _SHAPE.validate_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
