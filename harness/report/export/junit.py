"""A run as JUnit XML, with the attributes that GitHub and GitLab display: file, class, properties."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from harness.report.page.case_docstrings import read_claims
from harness.report.pivot import LOST, CellSelectedToRun, Pivot
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

# These verdicts are errors, not failures, because they are no statement about the kernel. plain() removes characters
# that XML 1.0 cannot hold even as a reference.
_ERRORS = frozenset({Verdict.HARNESS_ERROR, Verdict.BOOT_FAIL})


def junit(cells: Sequence[Cell], run: str, missing: Sequence[CellSelectedToRun] = ()) -> str:
    """The run as JUnit XML: a suite for each VM, a test case for each cell.

    A cell that was asked for and did not run (`missing`) is an error.
    """
    pivot = Pivot(cells, missing)
    root = ElementTree.Element("testsuites", name=f"pinpoint {run}")
    for vm in pivot.vms:
        row = [cell for cell in pivot.latest_cells if cell.vm == vm]
        lost = [each for each in pivot.missing if each.vm == vm]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=without_control_codes(vm),
            tests=str(len(row) + len(lost)),
            failures=str(sum(not cell.verdict.acceptable and cell.verdict not in _ERRORS for cell in row)),
            errors=str(sum(cell.verdict in _ERRORS for cell in row) + len(lost)),
            skipped=str(sum(cell.verdict in (Verdict.SKIP, Verdict.KNOWN_FAIL) for cell in row)),
            time=f"{sum(cell.seconds for cell in row):.3f}",
        )
        for cell in row:
            _case(suite, cell)
        for each in lost:
            case = _element(suite, each, 0.0)
            ElementTree.SubElement(case, "error", message=LOST, type="lost").text = LOST
    ElementTree.indent(root)
    document: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{document}\n'


def _element(suite: ElementTree.Element, cell: CellSelectedToRun, seconds: float) -> ElementTree.Element:
    """The test case of a cell, with its file and, where this version of the project has the case, its line."""
    mutant = f" mutant {cell.mutant}" if cell.mutant else ""
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=without_control_codes(f"{cell.case}{mutant}"),
        classname=without_control_codes(f"{cell.vm}.{cell.file}" if cell.file else cell.vm),
        time=f"{seconds:.3f}",
    )
    if cell.file:
        case.set("file", without_control_codes(cell.file))
    if line := read_claims(cell.file).line_of_case(cell.case):
        case.set("line", str(line))
    return case


def _case(suite: ElementTree.Element, cell: Cell) -> None:
    case = _element(suite, cell, cell.seconds)
    properties = ElementTree.SubElement(case, "properties")
    for name, value in (
        ("verdict", cell.verdict.value),
        ("kernel", cell.kernel_release),
        ("arch", cell.arch),
        ("accelerator", cell.accelerator),
        ("bundle", cell.bundle),
    ):
        if value:
            ElementTree.SubElement(properties, "property", name=name, value=without_control_codes(value))
    reason = without_control_codes(cell.reason)
    if cell.verdict in (Verdict.SKIP, Verdict.KNOWN_FAIL):
        ElementTree.SubElement(case, "skipped", message=f"{cell.verdict.value}: {reason}")
    elif cell.verdict in _ERRORS:
        ElementTree.SubElement(case, "error", message=reason, type=cell.verdict.value).text = reason
    elif not cell.verdict.acceptable:
        ElementTree.SubElement(case, "failure", message=reason, type=cell.verdict.value).text = reason
