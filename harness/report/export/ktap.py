"""A run as KTAP (Documentation/dev-tools/ktap.rst): whole, or streamed while its cells end."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from harness.core.errors import UsageError
from harness.report.pivot import LOST, CaseName, CellSelectedToRun, Pivot, PivotSquare
from harness.report.record import Cell, CellKey
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import line_without_control_codes

_INDENT = "    "
_VERSION = "KTAP version 1"


def ktap(cells: Sequence[Cell], missing: Sequence[CellSelectedToRun] = ()) -> str:
    """The run as KTAP that `tools/testing/kunit/kunit.py parse` accepts: a suite a VM, a subtest a case and mutant.

    A skipped cell is `ok # SKIP`. A known-fail is `ok`, with the defect in a diagnostic line: the case asserted the
    documented symptom. Every other verdict that fails the run is `not ok`, and so is a cell that did not run
    (`missing`).
    """
    pivot = Pivot(cells, missing)
    lines = [_VERSION, f"1..{len(pivot.vms)}"]
    for number, vm in enumerate(pivot.vms, 1):
        name, squares = _name(vm), [(case, pivot.square(case, vm)) for case in pivot.cases]
        asked = [
            (case, square) for case, square in squares if square.honest_or_worst_cell is not None or square.lost_count
        ]
        lines += _indented([_VERSION, f"# Subtest: {name}", f"1..{len(asked)}"])
        for position, (case, square) in enumerate(asked, 1):
            lines += _indented(_case(position, pivot.case_label(case), square))
        lines.append(f"{_status(all(_good(square) for _, square in asked))} {number} {name}")
    return "\n".join(lines) + "\n"


class KtapCaseStream:
    """Writes KTAP while a run goes on: each case on a VM as one test when the last of its cells has ended.

    VMs run in parallel, so the tests are flat: `VM.case`, with the mutants as subtests.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._left: Counter[tuple[str, str, str]] = Counter()
        self._cells: dict[tuple[str, str, str], dict[CellKey, Cell]] = {}
        self._begun = False
        self._written = 0

    @classmethod
    def open_file(cls, file: str) -> KtapCaseStream:
        """A stream into a file, which is emptied. Raises UsageError when it cannot be written."""
        try:
            return cls(os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "w"))
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=file, mend="name another file") from None

    def write_plan(self, asked: Iterable[CellSelectedToRun]) -> None:
        """Write the plan, of all cells that were asked for. Only the first call counts."""
        with self._lock:
            if not self._begun:
                self._begun = True
                self._left = Counter((each.file, each.case, each.vm) for each in asked)
                self._write([_VERSION, f"1..{len(self._left)}"])

    def add_cell_to_test(self, cell: Cell) -> None:
        """Take a cell that ended, and write its test when no other cell of it is left."""
        with self._lock:
            place = (cell.file, cell.case, cell.vm)
            self._cells.setdefault(place, {})[cell.key] = cell
            if len(self._cells[place]) == self._left[place]:
                self._test(place)

    def write_incomplete_tests(self) -> None:
        """Write the tests of which a cell did not run. The stream stays open."""
        with self._lock:
            for place in [place for place, count in self._left.items() if count]:
                self._test(place)

    def _test(self, place: tuple[str, str, str]) -> None:
        cells = self._cells.pop(place, {}).values()
        lost = self._left.pop(place) - len(cells)
        honest = next((cell for cell in cells if not cell.mutant), None)
        square = PivotSquare(honest, tuple(cell for cell in cells if cell.mutant), lost)
        self._written += 1
        self._write(_case(self._written, f"{place[2]}.{CaseName(*place[:2]).case}", square))

    def _write(self, lines: Iterable[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()


def _cells(square: PivotSquare) -> list[Cell]:
    return [*square.mutants, *([square.honest] if square.honest else [])]


def _good(square: PivotSquare) -> bool:
    return not square.lost_count and all(cell.verdict.acceptable for cell in _cells(square))


def _case(position: int, case: str, square: PivotSquare) -> Iterator[str]:
    """Yield the lines of one case on one VM: its mutants as subtests, and its own result last."""
    name = _name(case)
    subtests = _cells(square)
    if square.mutants or square.lost_count:
        yield from _indented([_VERSION, f"# Subtest: {name}", f"1..{len(subtests) + square.lost_count}"])
        for number, cell in enumerate(subtests, 1):
            label = f"mutant {_name(cell.mutant)} is caught" if cell.mutant else "honest"
            yield from _indented(_result(number, label, cell))
        for number in range(len(subtests) + 1, len(subtests) + square.lost_count + 1):
            yield from _indented([f"# {LOST}", f"not ok {number} {LOST}"])
        skipped = bool(subtests) and not square.lost_count and all(cell.verdict is Verdict.SKIP for cell in subtests)
        directive = f" # SKIP {line_without_control_codes(subtests[-1].reason)}" if skipped else ""
        yield f"{_status(_good(square))} {position} {name}{directive}"
    elif square.honest:
        yield from _result(position, name, square.honest)


def _result(number: int, name: str, cell: Cell) -> Iterator[str]:
    if cell.reason and cell.verdict is not Verdict.SKIP:
        yield f"# {cell.verdict.value}: {line_without_control_codes(cell.reason)}"
    directive = f" # SKIP {line_without_control_codes(cell.reason)}" if cell.verdict is Verdict.SKIP else ""
    yield f"{_status(cell.verdict.acceptable)} {number} {name}{directive}"


def _status(good: bool) -> str:
    return "ok" if good else "not ok"


def _name(text: str) -> str:
    """Return a test's name without `#`, which would begin a directive."""
    return line_without_control_codes(text).replace("#", "_")


def _indented(lines: Sequence[str] | Iterator[str]) -> list[str]:
    return [f"{_INDENT}{line}" for line in lines]
