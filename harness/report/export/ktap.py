"""A run as KTAP (Documentation/dev-tools/ktap.rst): a suite for each VM, a subtest for each case and mutant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report.pivot import Pivot, PivotSquare
from harness.report.record import Cell
from harness.verdict.cell_verdict import Verdict
from harness.verdict.printk import without_control_codes

_INDENT = "    "
_VERSION = "KTAP version 1"


def ktap(cells: Sequence[Cell]) -> str:
    """Return the run as KTAP that `tools/testing/kunit/kunit.py parse` accepts.

    A skipped cell is `ok # SKIP`. A known-fail is `ok`, with the defect in a diagnostic line, because the case asserted
    the documented symptom. Every other verdict that fails the run is `not ok`.
    """
    pivot = Pivot(cells)
    lines = [_VERSION, f"1..{len(pivot.vms)}"]
    for number, vm in enumerate(pivot.vms, 1):
        squares = [(case, pivot.square(case, vm)) for case in pivot.cases]
        present = [(case, square) for case, square in squares if square.first is not None]
        lines += _indented([_VERSION, f"# Subtest: {vm}", f"1..{len(present)}"])
        for position, (case, square) in enumerate(present, 1):
            lines += _indented(_case(position, pivot.label(case), square))
        good = all(cell.verdict.acceptable for _, square in present for cell in _cells(square))
        lines.append(f"{_status(good)} {number} {vm}")
    return "\n".join(lines) + "\n"


def _cells(square: PivotSquare) -> list[Cell]:
    return [*square.mutants, *([square.honest] if square.honest else [])]


def _case(position: int, case: str, square: PivotSquare) -> Iterator[str]:
    """Yield the lines of one case on one VM: its mutants as subtests, and its own result last."""
    name = _name(case)
    if square.mutants:
        subtests = _cells(square)
        yield from _indented([_VERSION, f"# Subtest: {name}", f"1..{len(subtests)}"])
        for number, cell in enumerate(subtests, 1):
            label = f"mutant {_name(cell.mutant)} is caught" if cell.mutant else "honest"
            yield from _indented(_result(number, label, cell))
        good = all(cell.verdict.acceptable for cell in subtests)
        skipped = all(cell.verdict is Verdict.SKIP for cell in subtests)
        yield f"{_status(good)} {position} {name}" + (f" # SKIP {_text(subtests[-1].reason)}" if skipped else "")
    elif square.honest:
        yield from _result(position, name, square.honest)


def _result(number: int, name: str, cell: Cell) -> Iterator[str]:
    if cell.reason and cell.verdict is not Verdict.SKIP:
        yield f"# {cell.verdict.value}: {_text(cell.reason)}"
    directive = f" # SKIP {_text(cell.reason)}" if cell.verdict is Verdict.SKIP else ""
    yield f"{_status(cell.verdict.acceptable)} {number} {name}{directive}"


def _status(good: bool) -> str:
    return "ok" if good else "not ok"


def _name(text: str) -> str:
    """Return a test's name without `#`, which would begin a directive."""
    return _text(text).replace("#", "_")


def _text(text: str) -> str:
    """Return the text as one printable line."""
    return " ".join(without_control_codes(text).split())


def _indented(lines: Sequence[str] | Iterator[str]) -> list[str]:
    return [f"{_INDENT}{line}" for line in lines]
