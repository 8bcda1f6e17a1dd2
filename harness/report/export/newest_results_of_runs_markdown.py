"""Several runs as one Markdown page: the VMs with their counts, and each claim on each VM."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from harness.report.export.earlier_matrix_page import EarlierPage
from harness.report.export.markdown import code_span, escape_table_text
from harness.report.pivot import Pivot
from harness.report.record import Cell, CellKey
from harness.verdict.cell_verdict_enum import Verdict

_INTRODUCTION = """# The matrix

Each VM by each claim, from the results of real runs. `./pinpoint matrix` makes this page; it is not edited.

A VM's cells may come from several runs. A cell that ran more than once counts as it ended in the newest run. The dates
are those of the runs, in UTC.
"""
_NOT_RUN = "not run"
VM_COLUMNS = (
    "VM",
    "kernel",
    "QEMU",
    "accelerator",
    "run",
    "claims",
    "cells",
    "passed",
    "known-fail",
    "skipped",
    "failed",
    "mutants",
    "seconds",
)
_EXPLANATION = """
`claims`: the case files of which a cell ran on the VM, of all that this page has. `mutants`: probes broken on purpose,
caught of tried. `skipped`: the VM lacks a trait, which its boot proves. `seconds`: the wall-clock time of the cells,
without builds; it depends on what else the host did. "-": the VM was not run. VMs for kernel mutants have no row; their
results are in [kernel-mutants.md](kernel-mutants.md#on-record).
"""


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


def results_by_vm_markdown(
    runs: Iterable[Run],
    claims: Mapping[str, str],
    recipes: Collection[str] = (),
    without_recipe: Mapping[str, str] | None = None,
    earlier: EarlierPage | None = None,
) -> str:
    """Return the page.

    `claims` maps a case file to its claim; a file that is missing there is shown by its name. `recipes` are the names
    of VMs that are listed as not run where no run has a cell of them. `without_recipe` maps the names of VMs that do
    not exist to the reason; a name that has a recipe is left out. The columns of `earlier` are kept for VMs of
    `recipes` of which no run has a cell. Raises UsageError for more VMs than a table can show.
    """
    newest: dict[CellKey, _Ended] = {}
    for run in sorted(runs):
        newest |= {cell.key: _Ended(cell, run.date) for cell in run.cells}
    ran = Pivot([ended.cell for ended in newest.values()]).vms
    kept = (earlier or EarlierPage({}, {})).only({*recipes} - {*ran})
    vms = sorted({*ran, *kept.vms})
    verdicts = _verdicts_by_claim([ended.cell for ended in newest.values()], claims, kept)
    lines = [_INTRODUCTION, "## VMs", "", *_head(VM_COLUMNS)]
    for vm in sorted({*vms, *recipes}):
        counts = _counts([ended for ended in newest.values() if ended.cell.vm == vm]) if vm in ran else kept.vms.get(vm)
        lines.append(_row([code_span(vm), *_with_claims(counts, vm, verdicts)] if counts else _vm_not_run(vm)))
    lines += [_EXPLANATION, *_without_recipe(without_recipe or {}, {*vms, *recipes})]
    lines += ["## Claims", "", *_head(["claim", *map(code_span, vms)])]
    for claim, shown in verdicts.items():
        lines.append(_row([claim, *(shown.get(vm, _NOT_RUN) for vm in vms)]))
    lines += ["", "A number without a word counts cells that passed. A VM that was not run has no column."]
    return "\n".join(lines) + "\n"


def _verdicts_by_claim(
    cells: Sequence[Cell], claims: Mapping[str, str], kept: EarlierPage
) -> Mapping[str, Mapping[str, str]]:
    """Return the verdicts by claim and VM: claims in the order of their files, then those that only `kept` has."""
    counted: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        counted[cell.file, cell.vm].append(cell)
    found: dict[str, dict[str, str]] = {}
    for file in sorted({*claims, *(cell.file for cell in cells)}):
        found[escape_table_text(claims.get(file, file))] = {}
    for (file, vm), of_vm in counted.items():
        found[escape_table_text(claims.get(file, file))][vm] = _verdicts(of_vm)
    for claim, shown in kept.claims.items():
        found.setdefault(claim, {}).update(shown)
    return {claim: shown for claim, shown in found.items() if set(shown.values()) - {_NOT_RUN}}


def _with_claims(counts: Sequence[str], vm: str, verdicts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the fields of a VM's row with its number of claims, of all that the page has."""
    fields = list(counts)
    shown = sum(each.get(vm, _NOT_RUN) != _NOT_RUN for each in verdicts.values())
    fields[VM_COLUMNS.index("claims") - 1] = f"{shown}/{len(verdicts)}"
    return fields


def _without_recipe(reasons: Mapping[str, str], existing: Collection[str]) -> list[str]:
    absent = sorted((vm, reason) for vm, reason in reasons.items() if vm not in existing)
    if not absent:
        return []
    rows = [_row([code_span(vm), "no VM", escape_table_text(reason)]) for vm, reason in absent]
    return ["## VMs that do not exist yet", "", *_head(("VM", "state", "reason")), *rows, ""]


def _head(names: Sequence[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _vm_not_run(vm: str) -> list[str]:
    return [code_span(vm), *(_NOT_RUN if name == "run" else "-" for name in VM_COLUMNS[1:])]


def _counts(ended: Sequence[_Ended]) -> list[str]:
    """Return the fields of a VM's row without its name, and with an empty number of claims."""
    cells = [each.cell for each in ended]
    verdicts = Counter(cell.verdict for cell in cells)
    mutants = [cell for cell in cells if cell.mutant and cell.verdict is not Verdict.SKIP]
    caught = sum(cell.verdict is Verdict.PASS for cell in mutants)
    return [
        _known(cell.kernel_release for cell in cells),
        _known(cell.qemu for cell in cells),
        _known(cell.accelerator for cell in cells),
        _known(each.date for each in ended),
        "",
        str(len(cells)),
        str(verdicts[Verdict.PASS]),
        str(verdicts[Verdict.KNOWN_FAIL]),
        str(verdicts[Verdict.SKIP]),
        str(sum(not cell.verdict.acceptable for cell in cells)),
        f"{caught}/{len(mutants)}",
        f"{sum(cell.seconds for cell in cells):.0f}",
    ]


def _known(values: Iterable[str]) -> str:
    """Return the distinct values, in order; "unknown" if there is none."""
    found = [escape_table_text(value) for value in dict.fromkeys(sorted(values)) if value]
    return ", ".join(found) or "unknown"


def _verdicts(cells: Sequence[Cell]) -> str:
    """Return the number of cells by verdict, from the best verdict to the worst; passes have no word."""
    if not cells:
        return _NOT_RUN
    counts = Counter(cell.verdict for cell in cells)
    words = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
    return ", ".join(word.removesuffix(" pass") for word in words)
