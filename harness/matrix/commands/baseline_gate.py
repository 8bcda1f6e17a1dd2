"""The end of a run that gates something: the comparison with a baseline, and the replays of new failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.core.errors import CELL_FAILED, HARNESS_FAILED, UsageError
from harness.matrix.cells.cell_record_on_pytest_report import reported_cell
from harness.matrix.commands import replay
from harness.matrix.controller_run import ControllerRun
from harness.report import compare
from harness.report.compare import FailureBaseline
from harness.report.record import Cell, CellKey, describe_cell
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

STRICT_NEEDS_RUN = "--strict finds new skips by comparing with a run; a baseline file does not list what passed"
# Beginnings of options that select some of the cells; cells that they leave out are not gone.
_SELECTING = ("-k", "-m", "--lf", "--last-failed", "--loader")


class Listener:
    """A pytest plugin that records the run's cells and where its results are."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.directory: Path | None = None
        self.selected_keys: set[CellKey] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a cell."""
        cell = reported_cell(report)
        if cell is not None:
            self.cells.append(cell)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Record the directory and the selected cells, when the run has closed them."""
        run = session.config.pluginmanager.getplugin("pinpoint-run")
        if isinstance(run, ControllerRun) and run.has_directory:
            self.directory = run.directory.path
            self.selected_keys = run.selected_keys


@dataclass
class Gate:
    """How a run is judged: `baseline_results` is the baseline, None without one; `confirmation_replays` the number of
    replays of a new failure.

    `lost_traits` are traits of the VM that the given kernel lacks; with `strict` they count as worse.
    """

    baseline_results: FailureBaseline | list[Cell] | None = None
    confirmation_replays: int = 0
    strict: bool = False
    lost_traits: list[str] = field(default_factory=list)
    listener: Listener = field(default_factory=Listener)

    @classmethod
    def from_options(cls, baseline: Path | None, confirm: int | None, *, strict: bool) -> Gate:
        """Read the baseline, before anything is built. Raises UsageError."""
        old: FailureBaseline | list[Cell] | None = None
        if baseline is not None:
            old = FailureBaseline.read(baseline) if baseline.suffix == ".toml" else compare.read_cells_of_run(baseline)
        return cls(old, confirm or 0, strict)

    def demand_strict_has_an_effect(self) -> None:
        """Raise UsageError for --strict without an earlier run: nothing else names the cells that passed."""
        if self.strict and not isinstance(self.baseline_results, list):
            raise UsageError(STRICT_NEEDS_RUN, mend="give an earlier run, or leave --strict out")

    def judge_and_report(self, status: int, arguments: Sequence[str] = ()) -> int:
        """Compare, replay, print, and return the exit status; a `status` other than 0, 1 and 3 is returned unchanged.

        A broken kernel can refuse what a mutant registers; the mutant's cell is then a harness error (status 3). New
        failures of other kinds are still a regression: 1. Without one the status stays 3.
        """
        for name in self.lost_traits:
            print(f"the VM has the trait {name}, this kernel does not: cells that need it are skipped")
        if status not in (0, CELL_FAILED, HARNESS_FAILED) or (status == HARNESS_FAILED and not self.listener.cells):
            return status
        new = compare.new_failures(self.baseline_results, self.listener.cells)
        if status == HARNESS_FAILED:
            new = [cell for cell in new if cell.verdict is not Verdict.HARNESS_ERROR]
            if self.baseline_results is None or not new:
                return status
        worse = bool(self.strict and self.lost_traits)
        if self.baseline_results is not None:
            found = self._compared(arguments)
            print("\n".join(compare.comparison_lines(found)))
            # A status of 1 that no failed cell explains has a cause that no baseline can name.
            unexplained = bool(status) and all(cell.verdict.acceptable for cell in self.listener.cells)
            worse = worse or found.worse or unexplained
        else:
            worse = worse or bool(status)
        self._confirmed(new)
        return CELL_FAILED if worse else 0

    def _compared(self, arguments: Sequence[str]) -> compare.Comparison:
        """Compare with the baseline. A selected cell without a result is worse, whatever the baseline has for it."""
        selected = self.listener.selected_keys
        unreported = selected - {cell.key for cell in self.listener.cells}
        if isinstance(self.baseline_results, FailureBaseline):
            found = compare.compare_with_baseline(self.baseline_results, self.listener.cells)
        else:
            assert self.baseline_results is not None
            before = [cell for cell in self.baseline_results if cell.key not in unreported]
            if any(map(_selects_cells, arguments)):
                before = [cell for cell in before if cell.key in selected]
            found = compare.compare(before, self.listener.cells, strict=self.strict)
        found.missing_cells.extend(sorted(f"{describe_cell(key)}: no result in this run" for key in unreported))
        return found

    def _confirmed(self, new: Sequence[Cell]) -> None:
        """Replay each new failure in fresh guests; the verdicts of the run stay."""
        lines = []
        for cell in new if self.confirmation_replays else ():
            name = describe_cell(cell)
            if not cell.bundle or self.listener.directory is None:
                lines.append(f"{name}: not replayed, it has no bundle")
                continue
            try:
                failed, tried = replay.replay_and_count_failures(
                    self.listener.directory / cell.bundle, self.confirmation_replays
                )
            except UsageError as error:
                lines.append(f"{name}: not replayed: {error}")
                continue
            lines.append(f"{name}: failed again in {failed} of {tried} fresh guests")
        if lines:
            print(f"\nconfirmed ({len(lines)}):")
            for line in lines:
                print(f"  {without_control_codes(line)}")


def _selects_cells(word: str) -> bool:
    """Return True for an argument that selects some of the cells; `--shards` selects none."""
    return word.startswith(_SELECTING) or word.partition("=")[0] == "--shard" or "::" in word
