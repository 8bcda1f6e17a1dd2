"""The tables that the bench prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from harness.bench.measured_ratio_and_goal import FigureResult, UnavailableSide
from harness.bench.samples import Samples
from harness.bench.saved_results import Profile, medians_over_runs

# In the order of a run.
_PHASES = {
    "phase.start_s": "launcher, Python, collection",
    "phase.ready_s": "processes, images checked, first guest",
    "phase.cells_s": "cells, on the wall's clock",
    "phase.end_s": "after the last cell",
    "phase.guest_s": "cells: waiting for a guest",
    "phase.fixtures_s": "cells: fixtures",
    "phase.body_s": "cells: bodies",
    "phase.check_up_s": "cells: check-ups",
    "phase.ending_s": "cells: fixtures' ends",
    "phase.idle_s": "processes idle while there are cells",
    "phase.image_s": "in parallel: images checked",
    "phase.thaw_s": "in parallel: guests thawed",
    "phase.boot_s": "in parallel: guests booted anew",
    "run.guest_cpu_s": "processors: guests",
    "run.cpu_s": "processors: all together",
}


def figures_table(outcomes: Sequence[FigureResult]) -> Table:
    """Return a table with a line for each figure: the sides' medians with spread, the value, and the goal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("figure", "ours", "peer", "value", "goal", ""):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        value = "-" if outcome.value is None else f"{outcome.value:.3g}"
        table.add_row(
            outcome.definition.name,
            _side(outcome.definition.our_side, outcome.our_samples),
            _side(outcome.definition.peer_side, outcome.peer_samples),
            Text(value),
            outcome.definition.goal,
            _judgement(outcome),
        )
    return table


def matrix_time_by_phase_table(profiles: Mapping[str, Sequence[Profile]]) -> Table:
    """Return a table of where the time of matrix runs went: medians in seconds, one column for each kind of run."""
    found = {name: medians_over_runs(runs) for name, runs in profiles.items()}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seconds of a matrix run")
    for name in found:
        table.add_column(name, justify="right")
    for phase, what in _PHASES.items():
        if any(phase in medians_of for medians_of in found.values()):
            cells = (f"{medians_of[phase]:.1f}" if phase in medians_of else "-" for medians_of in found.values())
            table.add_row(what, *cells)
    return table


def _side(name: str, side: Samples | UnavailableSide | None) -> Text:
    if side is None:
        return Text("-", style="dim")
    return Text(f"{name}: {side}") if isinstance(side, Samples) else Text(f"{name}: {side.reason}", style="yellow")


def _judgement(outcome: FigureResult) -> Text:
    if outcome.value is None:
        return Text("not measured", style="yellow")
    return Text("met", style="green") if outcome.goal_met else Text("missed", style="bold red")
