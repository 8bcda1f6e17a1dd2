"""Results are exported in formats of other tools: each can be read back, and guest output cannot break out of it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from harness.core.errors import UsageError
from harness.report.export.earlier_matrix_page import read_earlier_page
from harness.report.export.junit import junit
from harness.report.export.kcidb import kcidb
from harness.report.export.ktap import ktap
from harness.report.export.markdown import markdown
from harness.report.export.newest_results_of_runs_markdown import VM_COLUMNS, Run, results_by_vm_markdown
from harness.report.metrics_with_goals import Figure
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict

RUN = "20261128-120000-ab12"
HOSTILE = "\x1b]0;title\x07 | `<b>` # SKIP not ok 1\nok 2 forged \x9b1m </failure> \udc80"


def cell(case: str, verdict: Verdict = Verdict.PASS, **fields: object) -> Cell:
    known: dict[str, Any] = {
        "file": "cases/test_sites.py",
        "vm": "parisc",
        "reason": "",
        "seconds": 0.5,
        "kernel_release": "6.1.192",
        "arch": "parisc",
        "accelerator": "tcg",
        "traits": {},
        "image_key": "abc",
        "witnesses": [],
        "mutant": "",
        "bundle": "",
    }
    return Cell(case=case, verdict=verdict, **{**known, **fields})


CELLS = [
    cell("test_a", mutant="one-instruction-off"),
    cell("test_a"),
    cell("test_b[x]", Verdict.SKIP, reason="parisc has no kaslr"),
    cell("test_c", Verdict.KNOWN_FAIL, reason="arch/parisc/kernel/kprobes.c:1 (6.1): falls through"),
    cell("test_d", Verdict.OOPS, reason=HOSTILE, bundle="bundles/parisc/test_d"),
    cell("test_e", Verdict.HARNESS_ERROR, reason="QEMU was killed", vm="x86_64-debian"),
]


def test_ktap_is_nested_with_plans_that_match_its_results() -> None:
    text = ktap(CELLS)
    lines = text.splitlines()
    assert lines[:2] == ["KTAP version 1", "1..2"]
    assert "    # Subtest: parisc" in lines
    assert "        ok 1 mutant one-instruction-off is caught" in lines
    assert "    ok 2 test_b[x] # SKIP parisc has no kaslr" in lines
    assert any(re.match(r"    not ok 4 test_d$", line) for line in lines)
    assert lines[-1] == "not ok 2 x86_64-debian"
    for depth in range(3):
        indent = "    " * depth
        plans = [int(found[1]) for line in lines if (found := re.match(rf"{indent}1\.\.(\d+)$", line))]
        results = [line for line in lines if re.match(rf"{indent}(?:not )?ok \d+ ", line)]
        assert sum(plans) == len(results)


def test_nothing_that_a_guest_printed_makes_a_line_of_its_own() -> None:
    assert "ok 2 forged" not in [line.strip() for line in ktap(CELLS).splitlines()]
    assert "\x1b" not in ktap(CELLS) + markdown(CELLS, RUN) + junit(CELLS, RUN)
    assert "\x9b" not in ktap(CELLS) + markdown(CELLS, RUN) + junit(CELLS, RUN)


def test_junit_is_xml_with_counts_that_match() -> None:
    root = ElementTree.fromstring(junit(CELLS, RUN))
    suites = {suite.get("name"): suite for suite in root}
    parisc = suites["parisc"]
    assert (parisc.get("tests"), parisc.get("failures"), parisc.get("errors"), parisc.get("skipped")) == (
        "5",
        "1",
        "0",
        "2",
    )
    assert suites["x86_64-debian"].get("errors") == "1"
    failed = [case for case in parisc if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["test_d"]
    assert failed[0].get("file") == "cases/test_sites.py"


def test_kcidb_names_each_cell_once_and_an_issue_for_each_known_fail() -> None:
    figures = [Figure(figure="byhand.table_bytes", vm="parisc", value=7, unit="bytes", goal="", holds=True)]
    data = json.loads(json.dumps(kcidb(CELLS, figures, RUN, "lab")))
    assert data["version"] == {"major": 5, "minor": 3}
    assert [build["id"] for build in data["builds"]] == [f"lab:{RUN}-parisc", f"lab:{RUN}-x86_64-debian"]
    assert len({test["id"] for test in data["tests"]}) == len(data["tests"]) == len(CELLS) + 1
    assert sorted(test["status"] for test in data["tests"]) == ["ERROR", "FAIL", "FAIL", "PASS", "PASS", "PASS", "SKIP"]
    assert [each["issue_id"] for each in data["incidents"]] == [each["id"] for each in data["issues"]]
    for test in data["tests"]:
        assert re.fullmatch(r"[.a-zA-Z0-9_-]+", test["path"])


def test_markdown_lists_failures_and_keeps_its_table() -> None:
    text = markdown(CELLS, RUN)
    assert "### 2 failed" in text
    rows = [line for line in text.splitlines() if line.startswith("| oops")]
    assert len(rows) == 1
    assert len(re.split(r"(?<!\\)\|", rows[0])) == 7
    # In a code span a backslash would be shown.
    assert "`./pinpoint repro bundles/parisc/test_d`" in rows[0]


def test_markdown_cuts_reasons_of_kilobytes() -> None:
    text = markdown([cell("test_d", Verdict.FAIL, reason="x" * 5000)], RUN)
    assert f"| {'x' * 500} ... |" in text


@pytest.mark.parametrize("export", [ktap, lambda cells: junit(cells, RUN), lambda cells: markdown(cells, RUN)])
def test_a_run_without_cells_is_still_a_document(export: Callable[[list[Cell]], str]) -> None:
    assert export([]).endswith("\n")


def test_the_matrix_has_each_vm_with_its_counts_and_each_claim() -> None:
    page = results_by_vm_markdown([Run(RUN, CELLS)], {"cases/test_sites.py": "A probe | lands"})
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert "| `parisc` | 6.1.192 | unknown | tcg | 2026-11-28 | 1/1 | 5 | 2 | 1 | 1 | 1 | 1/1 | 2 |" in rows
    assert "| `x86_64-debian` | 6.1.192 | unknown | tcg | 2026-11-28 | 1/1 | 1 | 0 | 0 | 0 | 1 | 0/0 | 0 |" in rows
    assert rows[-1] == "| A probe \\| lands | 2, 1 skip, 1 known-fail, 1 oops | 1 harness-error |"


def test_the_matrix_counts_a_cell_as_it_ended_in_the_newest_run() -> None:
    older = Run("20261127-120000-ab12", [cell("test_a", Verdict.OOPS), cell("test_b", Verdict.FAIL, mutant="m")])
    newer = Run("20261128-120000-ab12", [cell("test_a", qemu="7.2.22")])
    row = "| `parisc` | 6.1.192 | 7.2.22 | tcg | 2026-11-27, 2026-11-28 | 1/1 | 2 | 1 | 0 | 0 | 1 | 0/1 | 1 |"
    for runs in ([older, newer], [newer, older]):
        page = results_by_vm_markdown(runs, {})
        assert row in page
        assert "| cases/test\\_sites.py | 1, 1 fail |" in page


def test_an_update_keeps_the_columns_of_vms_that_did_not_run() -> None:
    claims = {"cases/test_loader.py": "A | B", "cases/test_sites.py": "C"}
    recipes = ["kept", "parisc", "idle"]
    cells = [
        cell("test_a", vm="kept"),
        cell("test_a", vm="kept", file="cases/test_loader.py"),
        cell("test_a", vm="gone"),
    ]
    older = results_by_vm_markdown([Run(RUN, [*cells, cell("test_a", Verdict.OOPS)])], claims, recipes)
    newer = Run("20261129-120000-ab12", [cell("test_a")])
    earlier = read_earlier_page(older, VM_COLUMNS)
    page = results_by_vm_markdown([newer], claims, recipes, None, earlier)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert "| `kept` | 6.1.192 | unknown | tcg | 2026-11-28 | 2/2 | 2 | 2 | 0 | 0 | 0 | 0/0 | 1 |" in rows
    assert "| `parisc` | 6.1.192 | unknown | tcg | 2026-11-29 | 1/2 | 1 | 1 | 0 | 0 | 0 | 0/0 | 0 |" in rows
    assert rows[-4:] == [
        "| claim | `kept` | `parisc` |",
        "| --- | --- | --- |",
        "| A \\| B | 1 | not run |",
        "| C | 1 | 1 |",
    ]
    # The newest results alone do not have it, and an update with the same runs changes nothing.
    assert "2026-11-28" not in results_by_vm_markdown([newer], claims, recipes)
    assert results_by_vm_markdown([newer], claims, recipes, None, read_earlier_page(page, VM_COLUMNS)) == page


@pytest.mark.parametrize("page", ["", "# Notes\n", "| VM |\n| --- |\n\n| claim |\n| --- |\n"])
def test_another_page_is_not_updated(page: str) -> None:
    with pytest.raises(UsageError, match="tables that this version writes"):
        read_earlier_page(page, VM_COLUMNS)


def test_a_page_with_a_column_of_no_row_is_not_updated() -> None:
    page = results_by_vm_markdown([Run(RUN, [cell("test_a")])], {}).replace("| claim | `parisc` |", "| claim | `x` |")
    with pytest.raises(UsageError, match="other VMs"):
        read_earlier_page(page, VM_COLUMNS)


def test_the_matrix_shows_what_was_not_run_and_what_does_not_exist() -> None:
    cells = [cell("test_a"), cell("test_a", vm="other", file="cases/test_loader.py")]
    absent = {"parisc-7.0": "no row", "idle": "has a recipe by now"}
    page = results_by_vm_markdown([Run(RUN, cells)], {}, ["idle", "parisc"], absent)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert f"| `idle` | - | - | - | not run |{' - |' * 8}" in rows
    assert "| `parisc-7.0` | no VM | no row |" in rows
    assert sum(line.startswith("| `idle`") for line in rows) == 1
    assert rows[-4:] == [
        "| claim | `other` | `parisc` |",
        "| --- | --- | --- |",
        "| cases/test\\_loader.py | 1 | not run |",
        "| cases/test\\_sites.py | not run | 1 |",
    ]
