"""Divides the selected tests of a run into cell shards: each row, or parts of it, and the harness's own tests."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from harness.matrix import vm_order_and_row_division
from harness.matrix.cells.selection import CellId, cell_of
from harness.report.cell_duration_cache import case_and_mutant_key

# The assumed duration of a cell and of a test of the harness that never ran, in seconds.
_UNKNOWN_CELL, _UNKNOWN_TEST = 1.0, 0.1
# Parts of the harness's own tests: each is worth the start of a process.
_SECONDS_PER_PART = 5.0
_PARTS_PER_PROCESS = 2


@dataclass
class CellShard:
    """Tests that one process runs, in this order. `vm` is empty for tests that are no cells.

    `part` is the part of a divided row, 0 for a whole row. `seconds` are the past durations of its tests together.
    `attempt` counts the processes that ran tests of it. `starts_lost` counts those of them that ended before a test.
    """

    vm: str
    part: int
    items: Sequence[pytest.Item]
    seconds: float
    attempt: int = 1
    starts_lost: int = 0
    survivors: list[CellId] = field(default_factory=list)
    skipped_mutants: list[CellId] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of this attempt, unique in its run."""
        return f"{self.vm or 'tests'}{self.console_suffix}"

    @property
    def console_suffix(self) -> str:
        """What distinguishes its console logs from those of other parts and attempts; empty if there are no others."""
        words = ("p" + str(self.part) if self.part else "") + ("r" + str(self.attempt) if self.attempt > 1 else "")
        return f".{words}" if words else ""


def divide(
    items: Sequence[pytest.Item], parts: int, processes: int, durations: Mapping[str, Mapping[str, float]]
) -> list[CellShard]:
    """Return the shards in the order of the items: tests of the harness, then `parts` of each row.

    `durations` are past durations by VM and `case_and_mutant_key()`, under the VM "" by file of tests.
    """
    rows: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cell = cell_of(item)
        rows[cell.vm if cell else ""].append(item)
    shards = _parts_of_tests(rows.pop("", []), processes, durations.get("", {}))
    for vm, row in rows.items():
        cells = [cell for item in row if (cell := cell_of(item))]
        known = durations.get(vm, {})
        seconds = [known.get(case_and_mutant_key(cell.case, cell.mutant), _UNKNOWN_CELL) for cell in cells]
        index = vm_order_and_row_division.part_index_of_each_cell(cells, parts, known)
        shards += _numbered(vm, row, seconds, index, whole=parts == 1)
    return shards


class TestDurations:
    """Sums up the durations of tests that are no cells, by file."""

    __test__ = False

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()

    def add_phase(self, report: pytest.TestReport) -> None:
        """Add a phase of a test."""
        self._seconds[_file(report.nodeid)] += report.duration  # type: ignore[assignment]
        self._tests[_file(report.nodeid)] += report.when == "setup"

    def mean_by_file(self) -> dict[str, float]:
        """Return the mean seconds of a test by file."""
        return {file: round(self._seconds[file] / count, 3) for file, count in self._tests.items() if count}


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _parts_of_tests(items: Sequence[pytest.Item], processes: int, known: Mapping[str, float]) -> list[CellShard]:
    """Divide tests into parts of about equal duration, in order."""
    seconds = [known.get(_file(item.nodeid), _UNKNOWN_TEST) for item in items]
    total = sum(seconds)
    parts = max(1, min(_PARTS_PER_PROCESS * processes, math.ceil(total / _SECONDS_PER_PART)))
    index = vm_order_and_row_division.part_index_of_each_weight(seconds, parts)
    return _numbered("", items, seconds, index, whole=parts == 1)


def _numbered(
    vm: str, items: Iterable[pytest.Item], seconds: Iterable[float], index: Iterable[int], *, whole: bool
) -> list[CellShard]:
    by_part: defaultdict[int, list[tuple[pytest.Item, float]]] = defaultdict(list)
    for item, each, part in zip(items, seconds, index, strict=True):
        by_part[part].append((item, each))
    return [
        CellShard(vm, 0 if whole else part + 1, [item for item, _ in some], sum(each for _, each in some))
        for part, some in sorted(by_part.items())
    ]
