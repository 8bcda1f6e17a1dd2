"""The summary of a run on a terminal: a table of cases by VM, then each failure with its replay command."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.report import mutants_caught_by_one_witness
from harness.report.pivot import CellSelectedToRun, Pivot, PivotSquare, format_verdict_counts
from harness.report.record import Cell, CellKey, describe_cell
from harness.report.relocation_by_hand_table import TrialRow
from harness.report.relocation_by_hand_table import table as table_of_trials
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

STYLES = {
    Verdict.PASS: "green",
    Verdict.SKIP: "dim",
    Verdict.KNOWN_FAIL: "yellow",
}
_BAD = "bold red"
_NARROWEST = 80
# Output to a log is not wrapped.
_UNBOUNDED = 1000


def write_summary(
    write_line: Callable[[str], None],
    cells: Sequence[Cell],
    replays: Mapping[CellKey, str],
    missing: Iterable[CellSelectedToRun],
    *,
    trials: Sequence[TrialRow] = (),
    color: bool = False,
) -> None:
    """Write the summary of a run line by line.

    `replays` maps a cell's key to the command that runs it again; `missing` are the selected cells that did not run.
    """
    pivot = Pivot(cells, missing)
    buffer = io.StringIO()
    width = max(_NARROWEST, shutil.get_terminal_size().columns) if color else _UNBOUNDED
    console = Console(file=buffer, width=width, force_terminal=color, no_color=not color, highlight=False)
    console.print()
    if pivot.cases:
        console.print(_table(pivot))
        console.print(str(pivot.coverage), style=_BAD if pivot.missing else "")
    if trials:
        console.print(table_of_trials(trials))
    if witnesses := mutants_caught_by_one_witness.only_killer_table(cells):
        console.print(witnesses)
    if any(cell.mutant for cell in cells):
        console.print("(caught/tried): mutants, probes broken on purpose that the case must catch", style="dim")
    for (vm, reason), count in pivot.skips_by_vm_and_reason().items():
        where = "" if vm in reason else f" on {vm}"
        console.print(
            f"{count} skipped{where}: {without_control_codes(reason)}", style="dim", soft_wrap=True, markup=False
        )
    for group in pivot.failure_groups():
        first = group[0]
        _print_failure(console, first, len(group) - 1, replays.get(first.key, ""))
    for lost in pivot.missing:
        console.print(f"\ndid not run  {describe_cell(lost)}", style=_BAD, soft_wrap=True, markup=False)
        replay = replays.get(CellKey(lost.file, lost.case, lost.vm, lost.mutant), "")
        console.print(f"  again: {replay}", soft_wrap=True, markup=False)
    for line in buffer.getvalue().splitlines():
        write_line(line.rstrip())


def _table(pivot: Pivot) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("case", footer="cells", overflow="fold")
    for vm in pivot.vms:
        table.add_column(vm, footer=format_verdict_counts(pivot.totals(vm)), overflow="fold")
    for case in pivot.cases:
        table.add_row(Text(pivot.case_label(case)), *(_square(pivot.square(case, vm)) for vm in pivot.vms))
    return table


def _square(square: PivotSquare) -> Text:
    if square.honest_or_worst_verdict is None and not square.lost_count:
        return Text("-", style="dim")
    text = Text()
    if square.honest_or_worst_verdict is not None:
        mutants = f" ({square.mutants_caught}/{square.mutants_tried})" if square.mutants_tried else ""
        text.append(f"{square.honest_or_worst_verdict.value}{mutants}", style=style_of(square.honest_or_worst_verdict))
    if square.lost_count:
        text.append(f"{', ' if text else ''}{square.lost_count} did not run", style=_BAD)
    return text


def _print_failure(console: Console, cell: Cell, others: int, replay: str) -> None:
    more = f", and {others} more cell{'s' if others > 1 else ''} there" if others else ""
    headline = Text.assemble("\n", (cell.verdict.value, _BAD), f"  {describe_cell(cell)}{more}")
    console.print(headline, soft_wrap=True)
    console.print(f"  {without_control_codes(cell.reason)}", soft_wrap=True, markup=False)
    if replay:
        console.print(f"  again: {replay}", soft_wrap=True, markup=False)


def style_of(verdict: Verdict) -> str:
    """Return the color of a verdict."""
    return STYLES.get(verdict, _BAD)
