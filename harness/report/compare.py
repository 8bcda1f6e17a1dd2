"""Compares two runs, or a run with a baseline file: what got worse, what was mended, what is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core import bounded_toml
from harness.core.errors import UsageError
from harness.core.files import read_regular_file
from harness.report.pivot import Pivot
from harness.report.record import Cell, CellKey, Results, describe_cell
from harness.report.run_dir import RunDirectory
from harness.report.same_failure import remove_varying_parts
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import line_without_control_codes

# Each run has one sample of a cell, so it counts as slower only if it takes twice as long and two seconds longer.
_SLOWER_RATIO, _SLOWER_SECONDS = 2.0, 2.0
_LARGEST_BASELINE = 4 << 20


class AcceptedFailure(BaseModel):
    """A known failure in a baseline file: `reason` is why it is accepted, `owner` is who looks after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str = Field(min_length=1)
    vm: str = Field(min_length=1)
    mutant: str = ""
    file: str = ""
    verdict: Verdict
    reason: str = Field(min_length=1)
    owner: str = Field(min_length=1)

    def names(self, cell: Cell) -> bool:
        """Return True if the entry has the cell's case, VM and mutant, and its file if the entry names one."""
        same = (self.case, self.vm, self.mutant) == (cell.case, cell.vm, cell.mutant)
        return same and self.file in ("", cell.file)


class FailureBaseline(BaseModel):
    """A baseline file. Every cell that it does not name must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known: tuple[AcceptedFailure, ...] = ()

    @classmethod
    def read(cls, path: Path) -> FailureBaseline:
        """Read a TOML file. Raises UsageError with a message of one line."""
        mend = "see docs/comparing-runs.md"
        try:
            return cls.model_validate(bounded_toml.loads(read_regular_file(path, _LARGEST_BASELINE).decode()))
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(path), mend=mend) from None
        except ValueError as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else " ".join(str(error).split())
            raise UsageError(f"is no baseline file: {what[:200]}", where=str(path), mend=mend) from None

    def find_accepted_failure(self, cell: Cell) -> AcceptedFailure | None:
        """Return the entry with a failed cell's case, VM, mutant and verdict, and its file if the entry names one."""
        return next((each for each in self.known if each.verdict is cell.verdict and each.names(cell)), None)


@dataclass(frozen=True)
class Comparison:
    """The differences, as lists of lines for a person. `worse` makes the exit status 1.

    `changed_kernels` has the VMs whose kernel is another one now, `known_failures` those that a baseline file names,
    `entries_without_cell` the entries of a baseline file whose cell did not run, because it was not selected or because
    it has another name.
    """

    changed_kernels: list[str] = field(default_factory=list)
    newly_failed: list[str] = field(default_factory=list)
    missing_cells: list[str] = field(default_factory=list)
    newly_skipped: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    changed_verdicts: list[str] = field(default_factory=list)
    known_failures: list[str] = field(default_factory=list)
    entries_without_cell: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    slower: list[str] = field(default_factory=list)
    strict: bool = False

    @property
    def worse(self) -> bool:
        """True for new failures and for cells that are gone; with `strict` for new skips as well."""
        return bool(self.newly_failed or self.missing_cells or (self.strict and self.newly_skipped))

    def sections(self) -> Mapping[str, Sequence[str]]:
        """The lists by their headings, the most important first."""
        return {
            "another kernel": self.changed_kernels,
            "new failures": self.newly_failed,
            "gone: ran before, not selected or lost now": self.missing_cells,
            "skipped now": self.newly_skipped,
            "changed verdict or reason": self.changed_verdicts,
            "known failures": self.known_failures,
            "mended": self.mended,
            "entries of the baseline file without a cell in this run": self.entries_without_cell,
            "new cells": self.added,
            "slower": self.slower,
        }


def read_cells_of_run(path: Path) -> list[Cell]:
    """Return the cells of a run directory or of a results.jsonl. Raises UsageError."""
    directory = RunDirectory(path if path.is_dir() else path.parent)
    cells = Results(directory).read_cells() if path.exists() and directory.results_file.is_file() else []
    if not cells:
        raise UsageError(
            "holds no results", where=str(path), mend="name a directory below results/, such as results/latest"
        )
    return cells


def compare(old: Iterable[Cell], new: Iterable[Cell], *, strict: bool = False) -> Comparison:
    """Compare two runs cell by cell. VMs without any cell in the new run are left out."""
    before = {cell.key: cell for cell in Pivot(old).latest_cells}
    after = {cell.key: cell for cell in Pivot(new).latest_cells}
    found = Comparison(strict=strict)
    rows = {key.vm for key in after}
    releases = [
        {cell.vm: cell.kernel_release for cell in cells if cell.kernel_release}
        for cells in (before.values(), after.values())
    ]
    found.changed_kernels.extend(
        f"{vm}: {was} before, {release} now"
        for vm, release in releases[1].items()
        if (was := releases[0].get(vm, release)) != release
    )
    for key, cell in after.items():
        earlier = before.get(key)
        if earlier is None:
            (found.added if cell.verdict.acceptable else found.newly_failed).append(_line(key, cell))
        elif not cell.verdict.acceptable:
            _failed(found, key, earlier, cell)
        elif not earlier.verdict.acceptable:
            (found.newly_skipped if cell.verdict is Verdict.SKIP else found.mended).append(
                f"{describe_cell(key)}: {earlier.verdict.value} -> {cell.verdict.value}"
            )
        elif cell.verdict is Verdict.SKIP and earlier.verdict is not Verdict.SKIP:
            found.newly_skipped.append(_line(key, cell))
        elif cell.verdict is not earlier.verdict:
            _list_of_change(found, earlier.verdict, cell.verdict).append(
                f"{describe_cell(key)}: {earlier.verdict.value} -> {cell.verdict.value}"
            )
        elif cell.seconds > earlier.seconds * _SLOWER_RATIO and cell.seconds > earlier.seconds + _SLOWER_SECONDS:
            found.slower.append(f"{describe_cell(key)}: {earlier.seconds:.1f} s -> {cell.seconds:.1f} s")
    found.missing_cells.extend(
        f"{describe_cell(key)}: was {cell.verdict.value}"
        for key, cell in before.items()
        if key not in after and key.vm in rows and cell.verdict is not Verdict.SKIP
    )
    return found


def compare_with_baseline(baseline: FailureBaseline, cells: Iterable[Cell]) -> Comparison:
    """Compare a run with a baseline file: only failures that the file does not name are worse."""
    found = Comparison()
    seen: set[int] = set()
    rows = set()
    latest = list(Pivot(cells).latest_cells)
    for cell in latest:
        key = cell.key
        rows.add(key.vm)
        if cell.verdict.acceptable:
            continue
        known = baseline.find_accepted_failure(cell)
        if known is None:
            found.newly_failed.append(_line(key, cell))
        else:
            seen.add(id(known))
            found.known_failures.append(f"{describe_cell(key)}: {cell.verdict.value}: {known.reason} ({known.owner})")
    for each in baseline.known:
        if id(each) in seen or each.vm not in rows:
            continue
        listed = f"{each.case} on {each.vm}: {each.verdict.value} is in the baseline"
        if any(each.names(cell) for cell in latest):
            found.mended.append(f"{listed} and did not occur; remove the entry")
        else:
            found.entries_without_cell.append(f"{listed}, and no such cell ran")
    return found


def new_failures(old: FailureBaseline | Sequence[Cell] | None, new: Iterable[Cell]) -> list[Cell]:
    """Return the failed cells of a run that the baseline does not know; without a baseline, all failed cells."""
    failed = [cell for cell in Pivot(new).latest_cells if not cell.verdict.acceptable]
    if old is None:
        return failed
    if isinstance(old, FailureBaseline):
        return [cell for cell in failed if old.find_accepted_failure(cell) is None]
    before = {cell.key: cell for cell in Pivot(old).latest_cells}
    return [cell for cell in failed if cell.key not in before or before[cell.key].verdict.acceptable]


def comparison_lines(found: Comparison) -> list[str]:
    """Return the sections that are not empty, then one line about whether anything got worse."""
    printed = []
    for heading, entries in found.sections().items():
        if entries:
            printed.append(f"{heading} ({len(entries)}):")
            printed += [f"  {line_without_control_codes(entry)}" for entry in entries]
    return [*printed, "worse" if found.worse else "nothing got worse"]


def _list_of_change(found: Comparison, earlier: Verdict, now: Verdict) -> list[str]:
    """Return the list for a cell whose verdict was acceptable and became pass or known-fail."""
    if earlier is Verdict.SKIP:
        return found.added
    return found.mended if now is Verdict.PASS else found.changed_verdicts


def _failed(found: Comparison, key: CellKey, earlier: Cell, cell: Cell) -> None:
    if earlier.verdict.acceptable:
        found.newly_failed.append(_line(key, cell))
    elif earlier.verdict is not cell.verdict:
        found.changed_verdicts.append(
            f"{describe_cell(key)}: {earlier.verdict.value} -> {cell.verdict.value}: {cell.reason}"
        )
    elif remove_varying_parts(earlier.reason) != remove_varying_parts(cell.reason):
        found.changed_verdicts.append(f"{describe_cell(key)}: {cell.verdict.value}, another reason: {cell.reason}")


def _line(key: CellKey, cell: Cell) -> str:
    reason = f": {cell.reason}" if cell.reason else ""
    return f"{describe_cell(key)}: {cell.verdict.value}{reason}"
