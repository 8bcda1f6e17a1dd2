"""What a fault put into a run on purpose came to, and what all of them say of the harness."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from harness.report import jsonl
from harness.report.measurements import Figures
from harness.report.run_dir import RunDirectory


class FaultResult(BaseModel):
    """How a run ended in which something broke.

    `verdict` is that of the cell that was struck, empty where no cell was; `status` the run's exit status, negative
    when a signal ended it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: str
    status: int

    def __str__(self) -> str:
        return f"{self.verdict or 'no verdict'}, exit status {self.status}"


class Fault(BaseModel):
    """One fault: a line of `faults.jsonl`.

    `vm` is empty where no guest of a VM is part of it; `lost` counts cells that ended and are not in the run's results,
    `orphaned` the processes that outlived their run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: str
    vm: str
    expected: FaultResult
    told: FaultResult
    lost: int
    orphaned: int

    @property
    def misjudged(self) -> bool:
        """True when the run said something else of the fault than it should have."""
        return self.expected != self.told

    def __str__(self) -> str:
        where = f" on {self.vm}" if self.vm else ""
        aside = f"; {self.lost} results lost, {self.orphaned} processes orphaned" if self.lost or self.orphaned else ""
        return f"{self.fault}{where}: told {self.told}, expected {self.expected}{aside}"


class Faults:
    """`faults.jsonl` of a run, and the figures that follow from it."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.path / "faults.jsonl"

    def add(self, fault: Fault) -> None:
        """Keep a fault. Raises HostError."""
        jsonl.append(self._path, fault)

    def read(self) -> list[Fault]:
        """The faults kept so far, in order."""
        return jsonl.read(self._path, Fault)

    def count(self, figures: Figures) -> None:
        """Keep what all faults together say as figures. Raises HostError."""
        faults = self.read()
        figures.add("faults.injected", len(faults), "faults")
        figures.add("faults.misjudged", sum(fault.misjudged for fault in faults), "faults", goal="0")
        figures.add("results.lost", sum(fault.lost for fault in faults), "results", goal="0")
        figures.add("processes.orphaned", sum(fault.orphaned for fault in faults), "processes", goal="0")
