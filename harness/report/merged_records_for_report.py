"""What a report is made of: the records of one run, or of several as if they were one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.report import lost_cells, timeline
from harness.report.lost_cells import LostCell
from harness.report.metrics_with_goals import Figure, Figures
from harness.report.record import Cell, Results
from harness.report.relocation_by_hand_table import TrialRow, Trials
from harness.report.run_dir import RunDirectory
from harness.report.timeline import Span

# Each run that ends writes it last; a run that was killed has none.
_WALL = "run.wall_s"


@dataclass(frozen=True)
class Material:
    """The records of one or more runs.

    `newest_run` is the last of the runs. The bundles of `cells` and the logs in `console_logs`, by VM, are paths
    relative to `report_directory`, the directory that the report is written to. `unended_runs` names runs that were
    killed, `unreadable_line_counts` has the number of results by run that cannot be read.
    """

    name: str
    newest_run: RunDirectory
    report_directory: Path
    cells: Sequence[Cell]
    missing_cells: Sequence[LostCell]
    figures: Sequence[Figure]
    trials: Sequence[TrialRow]
    timeline_spans: Sequence[Span]
    console_logs: Mapping[str, Sequence[str]]
    unended_runs: Sequence[str]
    unreadable_line_counts: Mapping[str, int]

    @classmethod
    def read_runs(cls, runs: Sequence[RunDirectory], place: Path) -> Material:
        """Read runs. Of a cell, figure or trial that several runs have, the last run's counts."""
        ordered = sorted(runs, key=lambda run: run.name)
        cells, spans, missing, figures, trials = [], [], [], {}, {}  # type: ignore[var-annotated]
        consoles: dict[str, list[str]] = {}
        unended, unreadable = [], {}
        for run in ordered:
            within = os.path.relpath(run.path, place)
            read, torn = Results(run).read_with_damage_count()
            cells += [_moved(cell, within) for cell in read]
            if torn:
                unreadable[run.name] = torn
            measured = Figures(run).read()
            figures |= {(figure.figure, figure.vm): figure for figure in measured}
            trials |= {(row.vm, row.trial): row for row in Trials(run, Figures(run)).read()}
            spans += [_of_run(span, run.name if len(ordered) > 1 else "") for span in timeline.read_spans(run)]
            missing += lost_cells.read_lost_cells(run)
            if not any(figure.figure == _WALL for figure in measured):
                unended.append(run.name)
        ran = {cell.key for cell in cells}
        for vm in dict.fromkeys(cell.vm for cell in cells):
            logs = [os.path.relpath(log, place) for run in ordered for log in run.console_logs_of_vm(vm)]
            consoles[vm] = logs
        return cls(
            name=" + ".join(run.name for run in ordered),
            newest_run=ordered[-1],
            report_directory=place,
            cells=cells,
            missing_cells=[each for each in missing if (each.file, each.case, each.vm, each.mutant) not in ran],
            figures=list(figures.values()),
            trials=list(trials.values()),
            timeline_spans=spans,
            console_logs=consoles,
            unended_runs=unended,
            unreadable_line_counts=unreadable,
        )


def _moved(cell: Cell, within: str) -> Cell:
    """The cell with its bundle's path below `within`; without a bundle if the path leads out of its run."""
    path = PurePosixPath(cell.bundle)
    if path.is_absolute() or ".." in path.parts:
        return cell.model_copy(update={"bundle": ""})
    return cell.model_copy(update={"bundle": os.path.normpath(f"{within}/{cell.bundle}")}) if cell.bundle else cell


def _of_run(span: Span, run: str) -> Span:
    """The span with its run in the worker's name, where there are several runs."""
    return span.model_copy(update={"worker": f"{span.worker} of {run}"}) if run else span
