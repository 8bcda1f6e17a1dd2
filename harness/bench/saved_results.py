"""The results of a bench run: figures in figures.jsonl, and every sample in bench.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness.bench.measured_ratio_and_goal import FigureResult, UnavailableSide
from harness.bench.samples import Samples
from harness.core.files import write_text
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory

NAME = "bench.json"
_DIGITS = 4

Profile = Mapping[str, float]


def add_figure_and_medians(figures: Figures, outcome: FigureResult) -> None:
    """Write a figure and the median of each side, as far as they were measured."""
    name = f"bench.{outcome.definition.name}"
    if outcome.value is not None:
        value = round(outcome.value, _DIGITS)
        figures.add(name, value, outcome.unit, goal=outcome.definition.goal, holds=outcome.goal_met)
    if outcome.definition.peer_side:
        for role, side in (("ours", outcome.our_samples), ("peer", outcome.peer_samples)):
            if isinstance(side, Samples):
                figures.add(f"{name}.{role}", round(side.median, _DIGITS), "s")


def write_bench_json(
    directory: RunDirectory,
    host: Mapping[str, object],
    outcomes: Sequence[FigureResult],
    profiles: Mapping[str, Sequence[Profile]],
) -> None:
    """Replace `bench.json`: host, each figure with all samples, and where the time of the matrix runs went."""
    content = {
        "run": directory.name,
        "host": host,
        "figures": [_figure(outcome) for outcome in outcomes],
        "profiles": {name: {"medians": medians_over_runs(runs), "runs": list(runs)} for name, runs in profiles.items()},
    }
    write_text(directory.path / NAME, json.dumps(content, indent=1) + "\n")


def medians_over_runs(runs: Sequence[Profile]) -> dict[str, float]:
    """Return the median of each figure that every run has."""
    common = set.intersection(*(set(run) for run in runs)) if runs else set()
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in sorted(common)}


def _figure(outcome: FigureResult) -> dict[str, Any]:
    pair = outcome.definition
    return {
        "figure": pair.name,
        "what": pair.description,
        "value": outcome.value,
        "unit": outcome.unit,
        "goal": pair.goal,
        "holds": outcome.goal_met,
        "absent": outcome.reason_not_measured,
        "ours": _side(pair.our_side, outcome.our_samples),
        **({"peer": _side(pair.peer_side, outcome.peer_samples)} if outcome.peer_samples is not None else {}),
    }


def _side(name: str, side: Samples | UnavailableSide | None) -> dict[str, Any]:
    """A side with its samples in seconds."""
    if not isinstance(side, Samples):
        return {"side": name}
    about = {"median": side.median, "least": side.least, "most": side.most, "samples": list(side.values)}
    return {"side": name, **about}
