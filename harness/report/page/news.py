"""What is new since the last kept run of the same VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.core import paths
from harness.core.errors import PinpointError
from harness.report import history
from harness.report.compare import Comparison, compare
from harness.report.record import Cell, Results
from harness.report.run_dir import RunDirectory

# Entries of a list that are shown; a run of other cases than the last one has hundreds.
_MOST = 30
# Characters of an entry that are shown; "What did not hold" has the whole reason.
_LONGEST = 300


@dataclass(frozen=True)
class News:
    """`compared_run_by_vm` maps each VM to the run it was compared with; `sections` are the differences by heading."""

    compared_run_by_vm: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, Sequence[str]] = field(default_factory=dict)
    worse: bool = False
    unreadable_reason: str = ""

    @property
    def compared_run_names(self) -> list[str]:
        """The names of the earlier runs, the newest first."""
        return sorted(set(self.compared_run_by_vm.values()), reverse=True)


def limit_lines(lines: Sequence[str]) -> Sequence[str]:
    """The lines of a section that the page shows, with the number of those it does not."""
    shown = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..." for line in lines[:_MOST]]
    return shown if len(lines) <= _MOST else [*shown, f"and {len(lines) - _MOST} more: {paths.PROGRAM} compare"]


def compare_with_earlier_runs(directory: RunDirectory, cells: Sequence[Cell]) -> News:
    """Compare a run's cells with the last earlier run of each of its VMs, among the kept runs next to it.

    A history that cannot be read makes the report poorer, and is named in it; it fails nothing.
    """
    root = directory.path.parent
    try:
        since = history.last_earlier_run_by_vm(root, directory.name, {cell.vm for cell in cells})
    except PinpointError as error:
        return News(unreadable_reason=str(error))
    before = [
        cell
        for run in sorted(set(since.values()))
        for cell in Results(RunDirectory(root / run)).read_cells()
        if since.get(cell.vm) == run
    ]
    found: Comparison = compare(before, [cell for cell in cells if cell.vm in since])
    return News(since, {name: lines for name, lines in found.sections().items() if lines}, found.worse)
