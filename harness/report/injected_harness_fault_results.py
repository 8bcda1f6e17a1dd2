"""Faults injected into runs on purpose: how each ended, and the figures of all of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from harness.report import jsonl
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory


class VerdictAndExitStatus(BaseModel):
    """How a run with a fault ended.

    `verdict` is the affected cell's, empty when no cell was affected. `status` is the run's exit status; it is negative
    when a signal ended the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: str
    status: int

    def __str__(self) -> str:
        return f"{self.verdict or 'no verdict'}, exit status {self.status}"


class Fault(BaseModel):
    """One fault: a line of `faults.jsonl`.

    `vm` is empty when no guest is involved. `lost` counts cells that ended but are missing in the run's results.
    `orphaned` counts processes that outlived their run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: str
    vm: str
    expected: VerdictAndExitStatus
    reported: VerdictAndExitStatus
    lost: int
    orphaned: int

    @property
    def misjudged(self) -> bool:
        """True when the run did not report the expected result."""
        return self.expected != self.reported

    def __str__(self) -> str:
        where = f" on {self.vm}" if self.vm else ""
        aside = f"; {self.lost} results lost, {self.orphaned} processes orphaned" if self.lost or self.orphaned else ""
        return f"{self.fault}{where}: reported {self.reported}, expected {self.expected}{aside}"


class Faults:
    """`faults.jsonl` of a run, and its figures."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.path / "faults.jsonl"

    def add(self, fault: Fault) -> None:
        """Append a fault. Raises HostError."""
        jsonl.append(self._path, fault)

    def read(self) -> list[Fault]:
        """Return the faults written so far, in order."""
        return jsonl.read(self._path, Fault)

    def record_figures(self, figures: Figures) -> None:
        """Add the figures of all faults together. Raises HostError."""
        faults = self.read()
        figures.add("faults.injected", len(faults), "faults")
        figures.add("faults.misjudged", sum(fault.misjudged for fault in faults), "faults", goal="0")
        figures.add("results.lost", sum(fault.lost for fault in faults), "results", goal="0")
        figures.add("processes.orphaned", sum(fault.orphaned for fault in faults), "processes", goal="0")
