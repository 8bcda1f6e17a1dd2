"""Figures with their goals, and how each went over the kept runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.report.metrics_with_goals import Figure

# Runs that a course goes back.
RUNS = 20
_WIDTH, _HEIGHT = 90.0, 18.0


@dataclass(frozen=True)
class FigureTrend:
    """A figure of this run and the points of its line in a picture of 90 by 18, empty for fewer than two runs."""

    figure: Figure
    points: str
    sentence: str


def figure_trends(figures: Iterable[Figure], past: Mapping[tuple[str, str], Sequence[float]]) -> list[FigureTrend]:
    """The figures, those that miss their goal first, then those with a goal. A figure measured twice counts once."""
    latest = {(figure.figure, figure.vm): figure for figure in figures}
    made = [_course(figure, past.get(key, ())) for key, figure in latest.items()]
    return sorted(made, key=lambda course: (course.figure.holds, not course.figure.goal, course.figure.figure))


def _course(figure: Figure, values: Sequence[float]) -> FigureTrend:
    if len(values) < 2:
        return FigureTrend(figure, "", "no earlier run")
    low, high = min(values), max(values)
    step = _WIDTH / (len(values) - 1)
    heights = [_HEIGHT * (0.5 if high == low else (high - value) / (high - low)) for value in values]
    points = " ".join(f"{index * step:.0f},{height + 1:.0f}" for index, height in enumerate(heights))
    return FigureTrend(figure, points, f"{len(values)} runs: {values[0]:.6g} first, {low:.6g} to {high:.6g}")
