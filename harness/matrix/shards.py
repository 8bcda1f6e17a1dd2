"""A row in parts that run side by side, each on a guest of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from harness.matrix.selection import CellId
from harness.report.durations import name_of

# What a case that never ran is taken to take, in seconds.
_UNKNOWN = 1.0


def divided(cells: Sequence[CellId], parts: int, seconds: Mapping[str, float]) -> list[int]:
    """The part that each cell of a row is in: about as many seconds in each, the order kept.

    A case and its mutants stay together, for the honest cell must know which of them survived. `seconds` are what cells
    took before, by `name_of`.
    """
    cases = [list(each) for _, each in groupby(cells, key=lambda cell: cell.case)]
    weights = [sum(seconds.get(name_of(cell.case, cell.mutant), _UNKNOWN) for cell in case) for case in cases]
    found: list[int] = []
    before, total = 0.0, sum(weights)
    for case, weight in zip(cases, weights, strict=True):
        middle = (before + weight / 2) / total
        found += [int(middle * parts)] * len(case)
        before += weight
    return found
