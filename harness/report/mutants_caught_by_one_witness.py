"""The table of witnesses by mutants: which mutant was caught by one witness only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.table import Table

from harness.report.metrics_with_goals import Figures
from harness.report.record import Cell

# The witnesses of a landing (harness/landing/five_address_witnesses.py), and the hit count.
WITNESSES = ("reported", "listed", "elf", "trapped", "outside", "hits")


def record_only_killer_figures(figures: Figures, cells: Sequence[Cell]) -> None:
    """Add the figure of each VM and witness: how many mutant cells no other witness would have caught."""
    for vm in sorted({cell.vm for cell in cells if cell.only_killers}):
        found = Counter(name for cell in cells if cell.vm == vm for name in cell.only_killers)
        for name in WITNESSES:
            figures.add(f"witness.only_killer.{name}", found[name], "cells", vm=vm, goal="at least 1")


def only_killer_table(cells: Sequence[Cell]) -> Table | None:
    """Return the table with a row for each mutant, or None if no cell has an only killer."""
    found = Counter((cell.mutant, name) for cell in cells for name in cell.only_killers)
    if not found:
        return None
    drawn = Table("mutant", *WITNESSES, title="caught by one witness only, in cells", box=box.SIMPLE_HEAD)
    for mutant in sorted({mutant for mutant, _ in found}):
        drawn.add_row(mutant, *(str(found[mutant, name] or "-") for name in WITNESSES))
    return drawn
