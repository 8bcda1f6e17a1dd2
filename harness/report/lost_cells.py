"""The cells that a run was asked for and that have no verdict, kept so that the report can be written again."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from harness.core.files import write_text
from harness.report import jsonl
from harness.report.pivot import CellSelectedToRun
from harness.report.run_dir import RunDirectory


class LostCell(BaseModel):
    """One cell that did not run: a line of `lost.jsonl`. `replay` is the command that runs it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    case: str
    vm: str
    mutant: str
    replay: str = ""


def write_lost_cells(directory: RunDirectory, missing: Iterable[CellSelectedToRun]) -> None:
    """Write the cells; a run that lost none gets no file. Raises OSError."""
    lines = [
        LostCell(file=each.file, case=each.case, vm=each.vm, mutant=each.mutant, replay=getattr(each, "replay", ""))
        for each in missing
    ]
    if lines:
        write_text(directory.lost_cells_file, "".join(f"{jsonl.ascii_json(line)}\n" for line in lines))


def read_lost_cells(directory: RunDirectory) -> list[LostCell]:
    """The cells that did not run."""
    return jsonl.read(directory.lost_cells_file, LostCell)
