"""The figures that a run measured, each with its goal."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from harness.report import jsonl
from harness.report.run_dir import RunDirectory

_GOAL = re.compile(r"(?P<bound>at most |at least |)(?P<value>-?\d+(?:\.\d+)?)\b")


class Figure(BaseModel):
    """One measured figure: a line of `figures.jsonl`.

    `vm` is empty for a figure of the whole run, and `goal` for a figure without a goal. `holds` is true if the goal is
    met.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str
    vm: str
    value: float
    unit: str
    goal: str
    holds: bool


class Figures:
    """`figures.jsonl` of a run."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.figures_file

    def add(
        self,
        figure: str,
        value: float,
        unit: str,
        *,
        vm: str = "",
        goal: str = "",
        holds: bool | None = None,
        keep: bool = True,
    ) -> Figure:
        """Write a figure and return it, judged against its goal; without `keep` it is only judged.

        Without `holds`, a goal that begins `at most N`, `at least N` or `N` is judged here. Raises HostError when it
        cannot be written.
        """
        verdict = meets_goal(value, goal) if holds is None else holds
        kept = Figure(figure=figure, vm=vm, value=value, unit=unit, goal=goal, holds=verdict)
        if keep:
            jsonl.append(self._path, kept)
        return kept

    def read(self) -> list[Figure]:
        """Return the figures written so far, in order."""
        return jsonl.read(self._path, Figure)


def meets_goal(value: float, goal: str) -> bool:
    """Return True if a value meets a goal: `at most N`, `at least N` or `N`. A goal without a number is always met."""
    match = _GOAL.match(goal)
    if match is None:
        return True
    wanted = float(match["value"])
    return {"at most ": value <= wanted, "at least ": value >= wanted, "": value == wanted}[match["bound"]]
