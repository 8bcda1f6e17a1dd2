"""Decides which bundles may be replayed: those that name only cells of this project."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from harness.core import paths
from harness.core.errors import UsageError
from harness.images.recipe_files import files_by_name
from harness.matrix.cells.selection import CellId, cell_of
from harness.matrix.commands import pytest_run, replay_options
from harness.report.bundle import BundleDescription

_CASES = re.compile(r"cases/test_\w{1,100}\.py", re.ASCII)
_FROZEN = re.compile(r"(?:frozen-[0-9a-f]{1,64})?")
_DISTRUST = "do not trust it"
_OTHER_VERSION = "use the version it was made with, and --project DIR for a case of your own tree"
_LONGEST = 4096


class _Collected:
    """Keeps the cells that pytest collects."""

    def __init__(self) -> None:
        self.cells: dict[str, CellId] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep every cell by pytest's name of it."""
        self.cells = {cell.item_name: cell for item in session.items if (cell := cell_of(item))}


def demand_cells(about: BundleDescription) -> None:
    """Demand that a bundle names one VM, and cells of one case file that this project collects for that VM.

    The bundle's file is imported only after it is known to be a case of the project. Names from the bundle are printed
    or passed to pytest only after they are known to be printable. Raises UsageError.
    """
    _demand_printable(about)
    demand_vm(about)
    foreign = replay_options.first_unrecorded_option(
        [*about.options, *([f"--schedule={about.schedule}"] if about.schedule else [])]
    )
    if foreign:
        wrong = f"the bundle has an option that no run records: {foreign[:80]!r}"
        raise UsageError(wrong, where=about.cell.vm, mend=_DISTRUST)
    _demand_file(about)
    if not about.items:
        raise UsageError("the bundle names no cell", where=about.file, mend=_DISTRUST)
    cells = collect_case_file_cells(about)
    for item in about.items:
        if item not in cells:
            raise UsageError(f"has no cell {item!r} for {about.cell.vm}", where=about.file, mend=_OTHER_VERSION)
    last = cells[about.items[-1]]
    if (last.file, last.case, last.vm, last.mutant) != (
        about.cell.file,
        about.cell.case,
        about.cell.vm,
        about.cell.mutant,
    ):
        raise UsageError(f"{last.item_name!r} is not the bundle's own cell", where=about.file, mend=_DISTRUST)
    if about.cell.kernel_release and not about.cell.image_key:
        raise UsageError("the bundle's cell had a guest but names no image", where=about.cell.vm, mend=_DISTRUST)


def collect_case_file_cells(about: BundleDescription) -> dict[str, CellId]:
    """Return the cells in the bundle's case file for its VM, by pytest's names. Runs none of them."""
    pytest_run.demand_own_cases_import()
    found = _Collected()
    arguments = ["--full", f"--vm={about.cell.vm}", *about.options]
    pytest_run.collect_with_plugin([*arguments, str(paths.case_file(about.file))], found)
    return found.cells


def demand_vm(about: BundleDescription) -> None:
    """Demand that a bundle names one known VM. Raises UsageError."""
    known = files_by_name()
    if about.cell.vm not in known:
        raise UsageError(f"no VM named {about.cell.vm[:80]!r}", mend=f"one of: {', '.join(known)}")


def _demand_file(about: BundleDescription) -> None:
    """Demand that the file is in `cases/`, ours or the own tree's, by its literal path and not through a link."""
    named = _CASES.fullmatch(about.file) is not None
    path = paths.case_file(about.file) if named else paths.PROJECT
    if not path.is_file() or path.resolve() != path:
        raise UsageError("is no case of this version of Pinpoint", where=about.file, mend=_OTHER_VERSION)


def _demand_printable(about: BundleDescription) -> None:
    """Demand that text to be printed or passed to pytest has no control codes and is of bounded length."""
    cell = about.cell
    words: Sequence[str] = (
        *(cell.case, cell.vm, cell.mutant, cell.image_key, cell.kernel_release),
        *(about.file, *about.items, *about.options, about.schedule, about.seed),
    )
    for word in words:
        if not word.isprintable() or len(word) > _LONGEST:
            raise UsageError(
                f"the bundle has a name that no run records: {word[:80]!r}",
                where=cell.vm[:80] or "bundle",
                mend=_DISTRUST,
            )
    if not _FROZEN.fullmatch(about.frozen):
        raise UsageError(f"the bundle names {about.frozen[:80]!r}, which is no frozen guest", mend=_DISTRUST)
