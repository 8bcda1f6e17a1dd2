"""Sides measured in turn, run by run: what disturbs the host for a while hits all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.bench.figure import Absent
from harness.bench.samples import Samples

# Does what is to be measured once; gives the seconds it took.
Measure = Callable[[], float]


def race(
    sides: Mapping[str, Measure | Absent], runs: int, tell: Callable[[str, float], None]
) -> dict[str, Samples | Absent]:
    """Measure each side once a run, in their order, A B A B; `tell` hears what is measured and how far it is, 0-1.

    Raises what a measure raises: a figure with a hole in it is none.
    """
    present = {name: measure for name, measure in sides.items() if not isinstance(measure, Absent)}
    taken: dict[str, list[float]] = {name: [] for name in present}
    for run in range(runs):
        for place, (name, measure) in enumerate(present.items()):
            tell(f"run {run + 1} of {runs}: {name}", (run + place / len(present)) / runs)
            taken[name].append(measure())
    absent = {name: measure for name, measure in sides.items() if isinstance(measure, Absent)}
    return {**{name: Samples(tuple(values)) for name, values in taken.items()}, **absent}
