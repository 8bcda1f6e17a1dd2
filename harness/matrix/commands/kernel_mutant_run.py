"""`./pinpoint run --kernel-mutants`: cases on a kernel with one bug at a time, and which case detects the bug."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from harness.core import paths
from harness.core.errors import INTERRUPTED, HostError, UsageError
from harness.images import kernel_mutant_table
from harness.images.kernel_mutant_table import KernelMutant
from harness.images.vm_recipe import Recipe, load_all, select
from harness.matrix.cells.cell_record_on_pytest_report import reported_cell
from harness.matrix.cells.selection import CellId, cell_of
from harness.matrix.commands import pytest_run
from harness.report import jsonl
from harness.report.metrics_with_goals import Figures
from harness.report.record import Cell
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

_ALL_KILLED, _SURVIVED = 0, 1
# A directory of its own, so that `latest` stays a run of the matrix.
_PLACE = "kernel-mutants"
_QUIET = ("-q", "--no-header", "--no-summary", "--deep", "--color=no")
_PARALLEL = ("-n", "--numprocesses", "--dist")
# A case that needs an option to run is left out, unless the bug's entry in kernel-mutants.toml names it.
_NEEDS_OPTION = ("crash_triggers", "deep", "full", "sweep")
# After so many dead guests without a failed case no other case is tried, because each costs a thaw and a deadline.
_MOST_DEATHS = 6


class KernelMutantResult(BaseModel):
    """The result of one kernel mutant on one VM: a line of `kernel_mutants.jsonl`. A mutant's last line counts.

    `killer` is the case that failed, as `FILE.py::CASE`, empty for none. `reason` is its failure, or why the mutant is
    `equivalent`. `unnamed_killer` is True if the table does not name the killer for this mutant: whether the case's
    claim is the one that the mutant breaks must then be looked into. `elsewhere` are earlier cells that neither passed
    nor failed: a crash does not prove that a claim is checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vm: str
    number: int
    name: str
    past: bool
    equivalent: bool = False
    killer: str = ""
    unnamed_killer: bool = False
    reason: str = ""
    elsewhere: tuple[str, ...] = ()
    cells: int = 0
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        """True if the bug can be detected on this VM, and no case failed."""
        return not (self.killer or self.equivalent)

    def __str__(self) -> str:
        head = f"{self.vm} {self.number} {self.name}"
        if self.equivalent:
            return f"{head}: equivalent: {self.reason}"
        if self.killer:
            unnamed = ", which its entry does not name" if self.unnamed_killer else ""
            return f"{head}: killed by {self.killer}{unnamed}: {self.reason}"
        others = f"; not killed by a claim, but: {'; '.join(self.elsewhere)}" if self.elsewhere else ""
        return f"{head}: SURVIVED {self.cells} cells{others}"


# pytest keeps plugins in sets, so they are compared by identity.
@dataclass(eq=False)
class _Hunt:
    """A pytest plugin that runs the honest cases, those named for the mutant first, until one fails."""

    mutant: KernelMutant
    killer: Cell | None = None
    where: str = ""
    elsewhere: list[Cell] = field(default_factory=list)
    cells: int = 0
    _session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remember the session to stop."""
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect mutants of probes, and put the cases first that are named for the mutant."""
        kept = [item for item in items if self._could_know(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = sorted(kept, key=self._rank)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the first failed cell, which kills the mutant; a guest that dies does not."""
        cell = reported_cell(report)
        if cell is None:
            return
        self.cells += cell.verdict is not Verdict.SKIP
        if cell.verdict is Verdict.FAIL:
            self.killer, self.where = cell, _place(cell)
        elif not cell.verdict.acceptable:
            self.elsewhere.append(cell)
        if self._session and (self.killer or len(self.elsewhere) >= _MOST_DEATHS):
            # Not shouldstop, which counts as an interruption: that stops all children of this process for good.
            self._session.shouldfail = "the kernel mutant is known"

    def _could_know(self, item: pytest.Item) -> bool:
        cell = cell_of(item)
        needs_option = any(item.get_closest_marker(marker) for marker in _NEEDS_OPTION)
        return cell is not None and not cell.mutant and (not needs_option or self._rank(item) < len(self.mutant.cases))

    def _rank(self, item: pytest.Item) -> int:
        """Return the position of the item among the cases named for the mutant; all others come after them."""
        cell = cell_of(item)
        place = self.mutant.index_of_case(_place(cell)) if cell else None
        return len(self.mutant.cases) if place is None else place


def _place(cell: Cell | CellId) -> str:
    return f"{Path(cell.file).name}::{cell.case}"


def run_kernel_mutants_from_options(vms: Sequence[str], numbers: str, arguments: Sequence[str]) -> int:
    """Call `run_kernel_mutants` with VMs and numbers from the command line; without a VM, on all with `kernel_mutants`.

    VMs may share one kernel, so not each VM with the patch is meant. Raises UsageError for a number that is no bug, for
    a VM that takes no mutants, and for options of several processes, because the first failed cell must end the run.
    """
    if parallel := next((word for word in arguments if word.startswith(_PARALLEL)), ""):
        raise UsageError(f"--kernel-mutants runs in one process, not with {parallel}", mend="leave it out")
    mutants = kernel_mutant_table.parse_mutants(numbers)
    recipes = select(vms) if vms else [each for each in load_all().values() if each.kernel_mutants]
    for recipe in recipes:
        kernel_mutant_table.demand_takes_mutants(recipe)
    return run_kernel_mutants(recipes, mutants, arguments)


def run_kernel_mutants(recipes: Sequence[Recipe], mutants: Sequence[KernelMutant], arguments: Sequence[str]) -> int:
    """Run each mutant on each VM and print what killed it; return 0 if all that can be detected were killed, else 1.

    At the end each killer also runs on the kernel without a bug: a case that fails there too has killed nothing.
    """
    directory = RunDirectory.create(paths.results() / _PLACE)
    figures, kept, outcomes = Figures(directory), directory.path / "kernel_mutants.jsonl", []
    for recipe in recipes:
        found = []
        for mutant in mutants:
            outcome = _tried(recipe, mutant, directory, arguments)
            if outcome is None:
                return INTERRUPTED
            jsonl.append(kept, outcome)
            found.append(outcome)
        controlled = _controlled(recipe, found, directory)
        for outcome in controlled:
            if outcome not in found:
                jsonl.append(kept, outcome)
        _count(figures, recipe.name, controlled)
        outcomes += controlled
    survivors = [outcome for outcome in outcomes if outcome.survived]
    for outcome in survivors:
        print(without_control_codes(str(outcome)))
    killed = sum(bool(outcome.killer) for outcome in outcomes)
    print(f"{killed} killed, {len(survivors)} survived, {sum(each.equivalent for each in outcomes)} equivalent")
    print(f"results: {directory.path}")
    return _SURVIVED if survivors else _ALL_KILLED


def _tried(
    recipe: Recipe, mutant: KernelMutant, directory: RunDirectory, arguments: Sequence[str]
) -> KernelMutantResult | None:
    """Run one mutant; print and return its outcome, or None when a person ended the run."""
    own = {"vm": recipe.name, "number": mutant.number, "name": mutant.name, "past": mutant.is_past_mainline_bug}
    if why := mutant.why_equivalent(recipe):
        outcome = KernelMutantResult.model_validate({**own, "equivalent": True, "reason": why})
        print(without_control_codes(str(outcome)), flush=True)
        return outcome
    began, found = time.monotonic(), _Hunt(mutant)
    status = _session([f"--vm={recipe.name}", f"--kernel-mutant={mutant.number}", *arguments], found, directory)
    if status == INTERRUPTED:
        return None
    if not found.cells:
        raise HostError(
            f"no cell ran with kernel mutant {mutant} on {recipe.name}, so nothing is known about it",
            mend=f"see the end of {directory.path / 'pytest.log'}",
        )
    outcome = KernelMutantResult.model_validate(
        {
            **own,
            "killer": found.where,
            "unnamed_killer": found.killer is not None and mutant.index_of_case(found.where) is None,
            "reason": found.killer.reason if found.killer else "",
            "elsewhere": tuple(f"{cell.case} was {cell.verdict.value}: {cell.reason}" for cell in found.elsewhere),
            "cells": found.cells,
            "seconds": round(time.monotonic() - began, 1),
        }
    )
    print(without_control_codes(f"{outcome} ({outcome.seconds:.0f} s)"), flush=True)
    return outcome


def _session(arguments: Sequence[str], plugin: object, directory: RunDirectory) -> int:
    """Run pytest once, with its output in a file in the run's directory; return its exit status."""
    places = (Path(word.partition("::")[0]) for word in arguments if not word.startswith("-"))
    chosen = [] if any(place.exists() for place in places) else pytest_run.case_directories()
    with ExitStack() as stack:
        log = stack.enter_context((directory.path / "pytest.log").open("a"))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        return pytest_run.run([*_QUIET, f"--into={directory.path}", *arguments, *chosen], plugins=[plugin])


def _controlled(
    recipe: Recipe, outcomes: Sequence[KernelMutantResult], directory: RunDirectory
) -> list[KernelMutantResult]:
    """Return the outcomes without killers that also fail on the kernel without a bug."""
    killers = {outcome.killer for outcome in outcomes if outcome.killer}
    if not killers:
        return list(outcomes)
    control = _Control(killers)
    _session([f"--vm={recipe.name}"], control, directory)
    kept = []
    for outcome in outcomes:
        if outcome.killer and outcome.killer not in control.held:
            why = f"{outcome.killer} does not hold on the kernel without a bug either"
            outcome = outcome.model_copy(
                update={"killer": "", "unnamed_killer": False, "elsewhere": (*outcome.elsewhere, why)}
            )
        kept.append(outcome)
    return kept


@dataclass(eq=False)
class _Control:
    """A pytest plugin that runs some honest cases and records which of them hold."""

    wanted: set[str]
    held: set[str] = field(default_factory=set)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect all other cases."""
        kept = [
            item for item in items if (cell := cell_of(item)) and not cell.mutant and self._named(item) in self.wanted
        ]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a case that passed, or that failed in the documented way."""
        cell = reported_cell(report)
        if cell is not None and cell.verdict.acceptable:
            self.held.add(_place(cell))

    @staticmethod
    def _named(item: pytest.Item) -> str:
        cell = cell_of(item)
        return f"{Path(cell.file).name}::{cell.case}" if cell else ""


def _count(figures: Figures, vm: str, outcomes: Sequence[KernelMutantResult]) -> None:
    for name, found in (
        ("kernel_mutants", [outcome for outcome in outcomes if not outcome.past]),
        ("past_bugs", [outcome for outcome in outcomes if outcome.past]),
    ):
        tried = [outcome for outcome in found if not outcome.equivalent]
        killed = [outcome for outcome in tried if outcome.killer]
        figures.add(f"{name}.tried", len(tried), "mutants", vm=vm)
        figures.add(f"{name}.killed", len(killed), "mutants", vm=vm, goal=str(len(tried)))
        figures.add(f"{name}.equivalent", len(found) - len(tried), "mutants", vm=vm)
        figures.add(f"{name}.unnamed_killer", sum(each.unnamed_killer for each in tried), "mutants", vm=vm, goal="0")
