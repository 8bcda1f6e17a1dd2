"""A run as Markdown, for a CI job's summary."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core import paths
from harness.report.pivot import LOST, CellSelectedToRun, Pivot, format_verdict_counts
from harness.report.record import Cell
from harness.verdict.printk import line_without_control_codes

_MOST_FAILURES = 50
# Characters of a reason that are shown; some reasons list every section of a module.
_LONGEST_REASON = 500


def markdown(cells: Sequence[Cell], run: str, missing: Sequence[CellSelectedToRun] = ()) -> str:
    """The run as GitHub-flavored Markdown: a line for each VM, then each failure with its reason and bundle.

    Cells that were asked for and did not run (`missing`) follow.
    """
    pivot = Pivot(cells, missing)
    lines = [f"## Pinpoint {run}", "", f"{pivot.coverage}", "", "| VM | kernel | cells |", "|---|---|---|"]
    for vm in pivot.vms:
        release = next((cell.kernel_release for cell in cells if cell.vm == vm and cell.kernel_release), "not booted")
        lines.append(f"| {code_span(vm)} | {escape_table_text(release)} | {format_verdict_counts(pivot.totals(vm))} |")
    bad = [cell for group in pivot.failure_groups() for cell in group]
    if bad:
        lines += [
            "",
            f"### {len(bad)} failed",
            "",
            "| verdict | case | VM | reason | replay |",
            "|---|---|---|---|---|",
        ]
        lines += [_failure(cell) for cell in bad[:_MOST_FAILURES]]
        if len(bad) > _MOST_FAILURES:
            lines += ["", f"and {len(bad) - _MOST_FAILURES} more"]
    if pivot.missing:
        lines += ["", f"### {len(pivot.missing)} {LOST}", ""]
        lines += [
            f"- {code_span(each.case)} on {code_span(each.vm)}{_mutant(each)}"
            for each in pivot.missing[:_MOST_FAILURES]
        ]
        if len(pivot.missing) > _MOST_FAILURES:
            lines.append(f"- and {len(pivot.missing) - _MOST_FAILURES} more")
    return "\n".join(lines) + "\n"


def _mutant(cell: CellSelectedToRun) -> str:
    return f" (mutant {escape_table_text(cell.mutant)})" if cell.mutant else ""


def _failure(cell: Cell) -> str:
    replay = code_span(f"{paths.PROGRAM} repro {cell.bundle}") if cell.bundle else ""
    case = f"{code_span(cell.case)}{_mutant(cell)}"
    reason = cell.reason if len(cell.reason) <= _LONGEST_REASON else f"{cell.reason[:_LONGEST_REASON]} ..."
    return f"| {cell.verdict.value} | {case} | {code_span(cell.vm)} | {escape_table_text(reason)} | {replay} |"


def code_span(text: str) -> str:
    """Return the text as a code span of a table: a backslash escapes nothing there except a pipe (GFM, tables)."""
    line = line_without_control_codes(text).replace("`", "'").replace("|", "\\|")
    return f"`{line}`"


def escape_table_text(text: str) -> str:
    """Return the text as one line that does not end a table cell or begin markup."""
    line = line_without_control_codes(text)
    for mark in "\\|<>`*_[]":
        line = line.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return line
