"""Measures sides in turn, run by run, so that a disturbance of the host affects all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.bench.measured_ratio_and_goal import UnavailableSide
from harness.bench.samples import Samples

# Runs one measurement; returns its seconds.
Measure = Callable[[], float]


def interleave(
    sides: Mapping[str, Measure | UnavailableSide], runs: int, progress: Callable[[str, float], None]
) -> dict[str, Samples | UnavailableSide]:
    """Measure each side once a run, in the order A B A B.

    `progress` is called with a description and the fraction done, 0 to 1. Raises what a measure raises, because a
    figure with missing samples would be wrong.
    """
    present = {name: measure for name, measure in sides.items() if not isinstance(measure, UnavailableSide)}
    taken: dict[str, list[float]] = {name: [] for name in present}
    for run in range(runs):
        for place, (name, measure) in enumerate(present.items()):
            progress(f"run {run + 1} of {runs}: {name}", (run + place / len(present)) / runs)
            taken[name].append(measure())
    absent = {name: measure for name, measure in sides.items() if isinstance(measure, UnavailableSide)}
    return {**{name: Samples(tuple(values)) for name, values in taken.items()}, **absent}
