"""The record of a cell on pytest's report of its last phase, which goes from process to controller."""

from __future__ import annotations

from typing import Any

import pytest

from harness.report.record import Cell

_ATTRIBUTE = "pinpoint_cell"


def attach_cell(report: pytest.TestReport, cell: Cell) -> None:
    """Put a cell's record on a report, in a form that can be serialized."""
    setattr(report, _ATTRIBUTE, cell.model_dump(mode="json"))


def reported_cell(report: pytest.TestReport) -> Cell | None:
    """Return the record on a report; None if the cell has not ended with it."""
    fields: dict[str, Any] | None = getattr(report, _ATTRIBUTE, None)
    return None if fields is None else Cell(**fields)
