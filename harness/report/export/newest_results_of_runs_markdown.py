"""Several runs as one Markdown page: the VMs with their counts, and each claim on each VM."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from harness.report.export.markdown import code_span, escape_table_text
from harness.report.pivot import Pivot
from harness.report.record import Cell, CellKey
from harness.verdict.cell_verdict_enum import Verdict

_INTRODUCTION = """# The matrix

Each VM by each claim, from the results of real runs. `./pinpoint matrix` makes this page; it is not edited.

A VM's cells may come from several runs. A cell that ran more than once counts as it ended in the newest run.
"""
_VMS = ("VM", "kernel", "QEMU", "accelerator", "run", "cells", "passed", "known-fail", "skipped", "failed", "mutants")


class Run(NamedTuple):
    """A run's name, which begins with the UTC time of its start (YYYYMMDD-HHMMSS), and its cells."""

    name: str
    cells: Sequence[Cell]

    @property
    def date(self) -> str:
        """The day of the run, in ISO 8601."""
        day = self.name[:8]
        return f"{day[:4]}-{day[4:6]}-{day[6:]}"


class _Ended(NamedTuple):
    """A cell and the day of its run."""

    cell: Cell
    date: str


def results_by_vm_markdown(runs: Iterable[Run], claims: Mapping[str, str]) -> str:
    """Return the page. `claims` maps a case file to its claim; a file that is missing there is shown by its name.

    Raises UsageError for more VMs than a table can show.
    """
    newest: dict[CellKey, _Ended] = {}
    for run in sorted(runs):
        newest |= {cell.key: _Ended(cell, run.date) for cell in run.cells}
    vms = sorted(Pivot([ended.cell for ended in newest.values()]).vms)
    counted: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
    for ended in newest.values():
        counted[ended.cell.file, ended.cell.vm].append(ended.cell)
    files = sorted({ended.cell.file for ended in newest.values()})
    lines = [_INTRODUCTION, "## VMs", "", _row(_VMS), _row(["---"] * len(_VMS))]
    lines += [_row(_vm(vm, [ended for ended in newest.values() if ended.cell.vm == vm])) for vm in vms]
    lines += [
        "",
        "`mutants`: probes broken on purpose, caught of tried. `skipped`: the VM lacks a trait, which its boot proves.",
        "",
        "## Claims",
        "",
        _row(["claim", *map(code_span, vms)]),
        _row(["---"] * (len(vms) + 1)),
    ]
    for file in files:
        counts = [_verdicts(counted.get((file, vm), ())) for vm in vms]
        lines.append(_row([escape_table_text(claims.get(file, file)), *counts]))
    lines += ["", "A number without a word counts cells that passed. An empty field: no cell ran."]
    return "\n".join(lines) + "\n"


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _vm(vm: str, ended: Sequence[_Ended]) -> list[str]:
    cells = [each.cell for each in ended]
    verdicts = Counter(cell.verdict for cell in cells)
    mutants = [cell for cell in cells if cell.mutant and cell.verdict is not Verdict.SKIP]
    caught = sum(cell.verdict is Verdict.PASS for cell in mutants)
    return [
        code_span(vm),
        _known(cell.kernel_release for cell in cells),
        _known(cell.qemu for cell in cells),
        _known(cell.accelerator for cell in cells),
        _known(each.date for each in ended),
        str(len(cells)),
        str(verdicts[Verdict.PASS]),
        str(verdicts[Verdict.KNOWN_FAIL]),
        str(verdicts[Verdict.SKIP]),
        str(sum(not cell.verdict.acceptable for cell in cells)),
        f"{caught}/{len(mutants)}",
    ]


def _known(values: Iterable[str]) -> str:
    """Return the distinct values, in order; "unknown" if there is none."""
    found = [escape_table_text(value) for value in dict.fromkeys(sorted(values)) if value]
    return ", ".join(found) or "unknown"


def _verdicts(cells: Sequence[Cell]) -> str:
    """Return the number of cells by verdict, from the best verdict to the worst; passes have no word."""
    counts = Counter(cell.verdict for cell in cells)
    words = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
    return ", ".join(word.removesuffix(" pass") for word in words)
