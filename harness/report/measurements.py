"""What a run measured, beside what it should measure."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from harness.report import jsonl
from harness.report.run_dir import RunDirectory

_GOAL = re.compile(r"(?P<bound>at most |at least |)(?P<value>-?\d+(?:\.\d+)?)\b")


class Figure(BaseModel):
    """One measured figure: a line of `figures.jsonl`.

    `vm` is empty for a figure of the whole run, `goal` for one that has none; `holds` tells whether the goal is met.
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
        self._path = directory.figures

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
        """Keep a figure, or only judge it.

        Without `holds`, a goal that begins `at most N`, `at least N` or `N` is judged here. Raises HostError when it
        cannot be written.
        """
        verdict = meets(value, goal) if holds is None else holds
        kept = Figure(figure=figure, vm=vm, value=value, unit=unit, goal=goal, holds=verdict)
        if keep:
            jsonl.append(self._path, kept)
        return kept

    def read(self) -> list[Figure]:
        """The figures kept so far, in order."""
        return jsonl.read(self._path, Figure)


def meets(value: float, goal: str) -> bool:
    """Does a value meet a goal put in words? A goal without a number at its beginning is not judged, and holds."""
    match = _GOAL.match(goal)
    if match is None:
        return True
    wanted = float(match["value"])
    return {"at most ": value <= wanted, "at least ": value >= wanted, "": value == wanted}[match["bound"]]
