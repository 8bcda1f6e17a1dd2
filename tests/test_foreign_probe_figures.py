"""The figures of foreign modules and tools count honest cells that ran, and the table of tools is that of the cases."""

from __future__ import annotations

import ast
from pathlib import Path

from sample_runs import cell

from harness.core import paths
from harness.matrix.exit_status_and_counts import FOREIGN_PROBE_CASES, TOOL_CASES, record_foreign_probe_figures
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict


def test_modules_and_tools_are_counted_by_vm(tmp_path: Path) -> None:
    of_file = {"file": FOREIGN_PROBE_CASES}
    cells = [
        cell("test_plain", "parisc", **of_file),
        cell("test_kind[late]", "parisc", Verdict.FAIL, **of_file),
        cell("test_plain", "parisc", **{**of_file, "mutant": "list-left-out"}),
        cell("test_tool[perf]", "parisc", **of_file),
        cell("test_systemtap", "parisc", Verdict.SKIP, **of_file),
        cell("test_tool[perf]", "arm64-debian", **of_file),
        cell("test_else", "parisc"),
    ]
    run = RunDirectory(tmp_path)
    record_foreign_probe_figures(Figures(run), cells)
    found = {(each.vm, each.figure): (each.value, each.holds) for each in Figures(run).read()}
    assert found == {
        ("parisc", "foreign.modules.tried"): (2, True),
        ("parisc", "foreign.modules.right"): (1, False),
        ("parisc", "tools.tried"): (1, True),
        ("parisc", "tools.right"): (1, True),
        ("arm64-debian", "foreign.modules.tried"): (0, True),
        ("arm64-debian", "foreign.modules.right"): (0, True),
        ("arm64-debian", "tools.tried"): (1, True),
        ("arm64-debian", "tools.right"): (1, True),
    }


def test_every_case_that_runs_a_program_is_a_tool() -> None:
    """A case runs a program if it has packages, or calls judge_command() itself."""
    tree = ast.parse((paths.CASES / FOREIGN_PROBE_CASES).read_text())
    cases = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")]
    programs = {
        case.name
        for case in cases
        if "foreign_probes_with_packages" in {argument.arg for argument in case.args.args}
        or any(isinstance(node, ast.Attribute) and node.attr == "judge_command" for node in ast.walk(case))
    }
    assert programs == TOOL_CASES
