"""The exit status of a run, and the figures that count its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from harness.images.vm_recipe import Recipe
from harness.landing.landing_judgment import NOT_IN_FORCE
from harness.report.metrics_with_goals import Figures
from harness.report.pivot import CellSelectedToRun, Pivot
from harness.report.record import Cell
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaints import read_sorted_complaints
from harness.verdict.printk import read_raw_log_lines

FOREIGN_PROBE_CASES = "test_foreign_probes.py"
# Its cases in which a program of the guest registers the probes; in the others a module does.
TOOL_CASES = frozenset(
    {
        "test_fentry",
        "test_kprobe_multi",
        "test_script_by_a_symbol_table",
        "test_systemtap",
        "test_systemtap_by_debug_information",
        "test_tool",
        "test_tracefs_script",
        "test_uprobe_of_a_script",
    }
)


def exit_status(of_pytest: int, cells: Sequence[Cell], *, complete: bool) -> int:
    """Return 0 when all cells held, 1 when a cell failed, 3 when the harness or the host failed.

    A run that is not `complete`, because a cell did not run, is also 1. Any other status of pytest is returned
    unchanged.
    """
    if of_pytest not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return of_pytest
    if any(cell.verdict is Verdict.HARNESS_ERROR for cell in cells):
        return 3
    if not complete or not all(cell.verdict.acceptable for cell in cells):
        return 1
    return of_pytest


def record_mutant_figures(figures: Figures, cells: Sequence[Cell]) -> None:
    """Add the figures of how many mutants were caught on each VM."""
    for vm in {cell.vm for cell in cells}:
        mutants = [cell for cell in cells if cell.vm == vm and cell.mutant and cell.verdict is not Verdict.SKIP]
        caught = sum(cell.verdict is Verdict.PASS for cell in mutants)
        figures.add("mutants.caught", caught, "mutants", vm=vm)
        figures.add("mutants.survived", len(mutants) - caught, "mutants", vm=vm, goal="0")
        idle = sum(cell.reason.startswith(NOT_IN_FORCE) for cell in mutants)
        figures.add("mutants.not_in_force", idle, "mutants", vm=vm, goal="0")


def record_foreign_probe_figures(figures: Figures, cells: Sequence[Cell]) -> None:
    """Add the figures of how many foreign modules and tools were tried on each VM, and how many were judged right."""
    tried = [
        cell
        for cell in cells
        if cell.file == FOREIGN_PROBE_CASES and not cell.mutant and cell.verdict is not Verdict.SKIP
    ]
    for vm in {cell.vm for cell in tried}:
        of_vm = [cell for cell in tried if cell.vm == vm]
        tools = [cell for cell in of_vm if cell.case.partition("[")[0] in TOOL_CASES]
        modules = [cell for cell in of_vm if cell not in tools]
        for name, unit, group in (("foreign.modules", "modules", modules), ("tools", "tools", tools)):
            figures.add(f"{name}.tried", len(group), unit, vm=vm)
            right = sum(cell.verdict.acceptable for cell in group)
            figures.add(f"{name}.right", right, unit, vm=vm, goal=str(len(group)))


def record_cell_figures(figures: Figures, cells: Sequence[Cell], missing: Sequence[CellSelectedToRun]) -> None:
    """Add the figures of how many cells were selected, ran, were skipped, and never ran."""
    coverage = Pivot(cells, missing).coverage
    figures.add("cells.asked", coverage.selected, "cells")
    figures.add("cells.ran", coverage.ran, "cells")
    figures.add("cells.skipped", coverage.skipped, "cells")
    figures.add("cells.lost", coverage.lost, "cells", goal="0")


def record_false_complaint_figures(
    figures: Figures, directory: RunDirectory, recipes: Mapping[str, Recipe], cells: Sequence[Cell]
) -> None:
    """Add the count of false alarms: complaints in the console logs of rows whose cells are all good."""
    alarms = 0
    for vm in {cell.vm for cell in cells}:
        if all(cell.verdict.acceptable for cell in cells if cell.vm == vm):
            for log in directory.console_logs_of_vm(vm):
                alarms += len(read_sorted_complaints(read_raw_log_lines(log), recipes[vm].boot_noise).alarming)
    figures.add("oops.false_alarms", alarms, "complaints", goal="0")
