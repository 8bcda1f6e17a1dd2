"""The record of each cell in the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from harness.report import jsonl
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict


class CellKey(NamedTuple):
    """The key of a cell, unique in a run. It includes the file, because two case files may use the same name."""

    file: str
    case: str
    vm: str
    mutant: str


class HasCaseVmAndMutant(Protocol):
    """Something that names a cell to a person."""

    @property
    def case(self) -> str:
        """The case."""

    @property
    def vm(self) -> str:
        """The VM."""

    @property
    def mutant(self) -> str:
        """The mutant, empty for an honest cell."""


def describe_cell(cell: HasCaseVmAndMutant) -> str:
    """Return a cell's name for a person: `CASE on VM`, with its mutant if it has one."""
    return f"{cell.case} on {cell.vm}{f', mutant {cell.mutant}' if cell.mutant else ''}"


class Cell(BaseModel):
    """One case on one VM and its result: a line of `results.jsonl`.

    `reason` is one line, empty for a pass. `seconds` is the wall-clock time of the case. `traits` are the traits in the
    VM's recipe. `image_key` names the image in the store. `witnesses` has an object for each landing. `mutant` is empty
    for an honest cell. `only_killers` are the witnesses without any one of which a caught mutant would have survived;
    `hits` is the hit count. `bundle` is the path of its bundle in the run's directory, empty when there is none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[2] = Field(default=2, alias="schema")
    file: str
    case: str
    vm: str
    verdict: Verdict
    reason: str
    seconds: float
    kernel_release: str
    arch: str
    accelerator: str
    qemu: str = ""
    traits: Mapping[str, bool]
    image_key: str
    witnesses: Sequence[Mapping[str, Any]]
    mutant: str
    bundle: str
    only_killers: Sequence[str] = Field(default_factory=list)

    @property
    def key(self) -> CellKey:
        """The key of this cell in its run."""
        return CellKey(self.file, self.case, self.vm, self.mutant)


class Results:
    """`results.jsonl` of a run, written as cells end."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.results_file
        self._reserve = directory.reserved_space_file

    def write(self, cell: Cell) -> None:
        """Append a cell and sync it to the disk.

        Raises HostError. When the disk is full for the first time, the cell is still written, to the reserved space.
        """
        jsonl.append(self._path, cell, self._reserve)

    def free_reserved_space(self) -> None:
        """Free the reserved space, because no more cells will be written."""
        self._reserve.unlink(missing_ok=True)

    def read_cells(self) -> list[Cell]:
        """Return the cells written so far, in order."""
        return self.read_with_damage_count()[0]

    def read_with_damage_count(self) -> tuple[list[Cell], int]:
        """Return the cells that can be read, and the number of lines that cannot: torn, or of another schema."""
        return jsonl.read_with_damage_count(self._path, Cell)
