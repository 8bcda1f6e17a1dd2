"""Cells as a table: case by VM."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple, Protocol

from harness.core.errors import UsageError
from harness.report.record import Cell, CellKey
from harness.verdict.cell_verdict_enum import Verdict

LOST = "did not run"
# The full matrix has some 60 VMs and 50,000 squares.
_MOST_VMS, _MOST_SQUARES = 1000, 1 << 19


class CaseName(NamedTuple):
    """A case by its file, relative to the project, and its name."""

    file: str
    case: str


class CellSelectedToRun(Protocol):
    """A selected cell, which must end with a verdict."""

    @property
    def file(self) -> str:
        """The case's file."""

    @property
    def case(self) -> str:
        """The case."""

    @property
    def vm(self) -> str:
        """The VM."""

    @property
    def mutant(self) -> str:
        """The mutant, empty for the honest cell."""


@dataclass(frozen=True)
class PivotSquare:
    """The result of one case on one VM: the honest cell if it ran, the mutants' cells, and how many never ran."""

    honest: Cell | None
    mutants: tuple[Cell, ...]
    lost_count: int = 0

    @property
    def honest_or_worst_cell(self) -> Cell | None:
        """The cell shown for the square: the honest one, or the worst mutant's if only mutants ran."""
        return self.honest or max(self.mutants, key=lambda cell: cell.verdict.severity, default=None)

    @property
    def honest_or_worst_verdict(self) -> Verdict | None:
        """The verdict of the shown cell, None when nothing ran."""
        return self.honest_or_worst_cell.verdict if self.honest_or_worst_cell else None

    @property
    def mutants_tried(self) -> int:
        """How many mutants ran."""
        return sum(cell.verdict is not Verdict.SKIP for cell in self.mutants)

    @property
    def mutants_caught(self) -> int:
        """How many of them the case caught."""
        return sum(cell.verdict is Verdict.PASS for cell in self.mutants)


class Coverage(NamedTuple):
    """The numbers of cells that ran, that were skipped because their VM lacks a trait, and that never ran."""

    ran: int
    skipped: int
    lost: int

    @property
    def selected(self) -> int:
        """The number of selected cells."""
        return sum(self)

    def __str__(self) -> str:
        lost = f", {self.lost} did not run" if self.lost else ""
        return f"{self.selected} cells asked for: {self.ran} ran, {self.skipped} skipped{lost}"


class Pivot:
    """Cells by case and VM, in the order in which they first ended."""

    def __init__(self, cells: Iterable[Cell], missing: Iterable[CellSelectedToRun] = ()) -> None:
        """`missing` are the selected cells without a verdict."""
        self.cells, self.missing = tuple(cells), tuple(missing)
        selected = (*self.cells, *self.missing)
        self.cases = tuple(dict.fromkeys(CaseName(cell.file, cell.case) for cell in selected))
        self._files = Counter(name.case for name in self.cases)
        self._vms = tuple(dict.fromkeys(cell.vm for cell in selected))
        # For a cell that ran twice, because its guest was replaced, the last run counts.
        self._latest = {cell.key: cell for cell in self.cells}
        self._mutants: defaultdict[tuple[str, str, str], list[Cell]] = defaultdict(list)
        for key, cell in self._latest.items():
            if key.mutant:
                self._mutants[key[:3]].append(cell)
        self._lost = Counter((each.file, each.case, each.vm) for each in self.missing)

    @property
    def vms(self) -> tuple[str, ...]:
        """The VMs. Raises UsageError for a table larger than that of any run, of which most squares would be empty."""
        if len(self._vms) > _MOST_VMS or len(self.cases) * len(self._vms) > _MOST_SQUARES:
            what = f"{len(self.cases)} cases on {len(self._vms)} VMs are more than a table can show"
            raise UsageError(what, mend="name fewer runs, or only runs that you trust")
        return self._vms

    @property
    def latest_cells(self) -> tuple[Cell, ...]:
        """Each cell once, in the order in which cells first ended."""
        return tuple(self._latest.values())

    def case_label(self, case: CaseName) -> str:
        """The case's name, with its file if another file has a case of that name."""
        return case.case if self._files[case.case] == 1 else f"{case.case} ({PurePath(case.file).stem})"

    def square(self, case: CaseName, vm: str) -> PivotSquare:
        """One square of the table."""
        place = (case.file, case.case, vm)
        return PivotSquare(
            self._latest.get(CellKey(*place, "")), tuple(self._mutants.get(place, ())), self._lost[place]
        )

    @property
    def coverage(self) -> Coverage:
        """How many cells ran, were skipped and never ran."""
        skipped = sum(cell.verdict is Verdict.SKIP for cell in self._latest.values())
        return Coverage(len(self._latest) - skipped, skipped, len(self.missing))

    def totals(self, vm: str = "") -> Counter[Verdict]:
        """Return how many cells ended in each verdict, on one VM or on all."""
        return Counter(cell.verdict for cell in self._latest.values() if vm in ("", cell.vm))

    def failure_groups(self) -> list[list[Cell]]:
        """Return the cells that make the run fail, the worst first, grouped by VM, verdict and reason."""
        groups: dict[tuple[str, Verdict, str], list[Cell]] = {}
        for cell in self._latest.values():
            if not cell.verdict.acceptable:
                groups.setdefault((cell.vm, cell.verdict, cell.reason), []).append(cell)
        return sorted(groups.values(), key=lambda group: -group[0].verdict.severity)

    def skips_by_vm_and_reason(self) -> dict[tuple[str, str], int]:
        """Return how many cells were skipped, by VM and reason."""
        return dict(Counter((cell.vm, cell.reason) for cell in self._latest.values() if cell.verdict is Verdict.SKIP))


def format_verdict_counts(totals: Counter[Verdict]) -> str:
    """Return for example `12 pass, 1 fail`, in the order of verdicts; verdicts that did not occur are left out."""
    return ", ".join(f"{totals[verdict]} {verdict.value}" for verdict in Verdict if totals[verdict]) or "no cells"
