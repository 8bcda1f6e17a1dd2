"""The matrix as a heat map: claims, their cases folded into them, by VM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from harness.report.page.case_docstrings import read_claims
from harness.report.pivot import CaseName, Pivot, PivotSquare
from harness.report.progress_state import format_duration
from harness.verdict.cell_verdict_enum import Verdict

# The states of a mark that are no verdict.
LOST, NONE = "lost", "none"
_SHORT = {Verdict.KNOWN_FAIL: "known", Verdict.BOOT_FAIL: "boot", Verdict.HARNESS_ERROR: "harness"}


@dataclass(frozen=True)
class Mark:
    """One square of the map: its state, the word in it, a small note, and its sentence for a screen reader.

    `state` is a verdict's value, `lost` for cells that did not run, `none` where nothing was asked for.
    """

    state: str
    word: str
    note: str
    sentence: str

    @property
    def fails_run(self) -> bool:
        """True when it makes the run fail."""
        return self.state == LOST or (self.state != NONE and not Verdict(self.state).acceptable)


@dataclass(frozen=True)
class CaseRow:
    """One case on every VM. `case_index` is its index in the pivot's cases."""

    case_index: int
    name: str
    claim: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class CaseFileGroup:
    """One case file: its name, what it claims, and its cases. `is_open` is true when one of its marks is bad."""

    file: str
    name: str
    claim: str
    rows: Sequence[CaseRow]
    marks: Sequence[Mark]

    @property
    def is_open(self) -> bool:
        """True when a case of it makes the run fail."""
        return any(mark.fails_run for mark in self.marks)


def case_file_groups(pivot: Pivot) -> list[CaseFileGroup]:
    """The rows of the map by case file: claims that did not hold first, then by name."""
    by_file: dict[str, list[CaseRow]] = {}
    for number, case in enumerate(pivot.cases):
        by_file.setdefault(case.file, []).append(_row(pivot, number, case))
    groups = [_group(file, rows, pivot.vms) for file, rows in by_file.items()]
    return sorted(groups, key=lambda group: (not group.is_open, group.name, group.file))


def _row(pivot: Pivot, number: int, case: CaseName) -> CaseRow:
    marks = [_mark(pivot.square(case, vm), f"{case.case} on {vm}") for vm in pivot.vms]
    return CaseRow(number, case.case, read_claims(case.file).claim_of_case(case.case), marks)


def _group(file: str, rows: Sequence[CaseRow], vms: Sequence[str]) -> CaseFileGroup:
    name = PurePath(file).stem.removeprefix("test_").replace("_", " ") or "cases"
    marks = [_folded([row.marks[column] for row in rows], f"{name} on {vm}") for column, vm in enumerate(vms)]
    return CaseFileGroup(file, name, read_claims(file).file_claim, rows, marks)


def _mark(square: PivotSquare, where: str) -> Mark:
    mutants = f"{square.mutants_caught}/{square.mutants_tried}" if square.mutants_tried else ""
    caught = f", {square.mutants_caught} of {square.mutants_tried} mutants caught" if square.mutants_tried else ""
    if square.lost_count:
        return Mark(LOST, f"{square.lost_count} lost", mutants, f"{where}: {square.lost_count} did not run{caught}")
    cell = square.honest_or_worst_cell
    if cell is None:
        return Mark(NONE, "-", "", f"{where}: not asked for")
    # A mutant that failed by itself, not by surviving, fails the run although the honest cell may hold.
    worst = max((cell, *square.mutants), key=lambda each: each.verdict.severity * (not each.verdict.acceptable))
    verdict = worst.verdict if not worst.verdict.acceptable else cell.verdict
    sentence = f"{where}: {verdict.value}{caught}, {format_duration(cell.seconds)}"
    return Mark(verdict.value, _SHORT.get(verdict, verdict.value), mutants, sentence)


def _folded(marks: Sequence[Mark], where: str) -> Mark:
    """All marks of a column of one claim as one: the worst state, and how many of each state there are."""
    counts = Counter(mark.state for mark in marks if mark.state != NONE)
    if not counts:
        return Mark(NONE, "-", "", f"{where}: not asked for")
    worst = max(counts, key=_weight)
    bad = sum(mark.fails_run for mark in marks)
    ran = sum(count for state, count in counts.items() if state not in (LOST, Verdict.SKIP.value))
    if bad:
        word = f"{bad} of {sum(counts.values())}"
    else:
        worst = Verdict.PASS.value if counts[Verdict.PASS.value] and worst == Verdict.SKIP.value else worst
        word = str(ran) if ran else "skip"
    return Mark(worst, word, "", f"{where}: {', '.join(_counted(counts))}")


def _counted(counts: Counter[str]) -> Iterator[str]:
    for state in sorted(counts, key=_weight, reverse=True):
        yield f"{counts[state]} {'did not run' if state == LOST else state}"


def _weight(state: str) -> int:
    return len(Verdict) if state == LOST else Verdict(state).severity
