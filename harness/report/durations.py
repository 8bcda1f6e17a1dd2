"""How long each cell took when it last ran, kept in the user's cache: the slowest rows of a run begin first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.core.files import write_text
from harness.report.record import Cell


def remember(path: Path, cells: Iterable[Cell]) -> None:
    """Keep the seconds of these cells beside those of others that ran before."""
    known = {vm: dict(cases) for vm, cases in of_cells(path).items()}
    for cell in cells:
        known.setdefault(cell.vm, {})[name_of(cell.case, cell.mutant)] = cell.seconds
    write_text(path, json.dumps(known, indent=1, sort_keys=True))


def name_of(case: str, mutant: str) -> str:
    """What a cell is called where its seconds are kept."""
    return f"{case} {mutant}".strip()


def of_rows(path: Path) -> Mapping[str, float]:
    """Seconds of all known cells of each VM together."""
    return {vm: sum(cases.values()) for vm, cases in of_cells(path).items()}


def of_cells(path: Path) -> Mapping[str, Mapping[str, float]]:
    """Seconds of all known cells by VM and `name_of`.

    Nothing when there is nothing, or nothing that can be read: it only saves time.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
