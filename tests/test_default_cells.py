"""A run without options has each claim: an honest cell of each case that is not slow itself, and one of its mutants."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping

from harness.core import paths
from harness.images import kernel_mutant_table

_VM = "x86_64-debian"
_SLOW = {"deep", "full", "crash_triggers"}
# The files of cases without a fast case. On other VMs more files have none, because their cases require other traits.
_SLOW_FILES = {"test_crash_triggers.py", "test_every_function_by_hand.py", "test_stress.py", "test_upstream.py"}


def _cells(*options: str) -> Mapping[str, list[str]]:
    """The labels of the cells that a run with these options selects, by case."""
    words = [sys.executable, "-m", "pytest", "-p", "harness.plugin", f"--vm={_VM}", "--co", "-q", *options]
    listed = subprocess.run(
        [*words, "-p", "no:cacheprovider", str(paths.CASES)],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in listed.splitlines():
        if line.startswith("cases/"):
            case, _, label = line.rstrip("]").partition("[")
            found[case].append(label)
    return found


def _mutants(labels: list[str]) -> int:
    return sum("mutant:" in label for label in labels)


def _is_slow(case: str) -> bool:
    """Return True if the function itself, not one of its parameters, has a marker of slow cases."""
    file, _, name = case.partition("::")
    tree = ast.parse((paths.PROJECT / file).read_text())
    marked = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    marked_file = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    words = {
        part.attr
        for each in [*(decorator for node in marked for decorator in node.decorator_list), *marked_file]
        for part in ast.walk(each)
        if isinstance(part, ast.Attribute)
    }
    return bool(words & _SLOW)


def test_each_case_keeps_an_honest_cell_and_a_mutant() -> None:
    default, complete = _cells(), _cells("--full")
    missing = [case for case in complete if case not in default and not _is_slow(case)]
    assert not missing, "only values of a parameter are marked, and no value is left"
    for case, labels in default.items():
        assert len(labels) > _mutants(labels), f"{case}: no honest cell"
        assert bool(_mutants(labels)) == bool(_mutants(complete[case])), f"{case}: none of its mutants"


def test_each_file_keeps_an_honest_cell_and_a_mutant() -> None:
    default, complete = _by_file(_cells()), _by_file(_cells("--full"))
    assert {paths.CASES / file for file in complete} == set(paths.CASES.glob("test_*.py"))
    assert {file for file in complete if file not in default} == _SLOW_FILES
    for file, labels in default.items():
        assert len(labels) > _mutants(labels), f"{file}: no honest cell"
        assert bool(_mutants(labels)) == bool(_mutants(complete[file])), f"{file}: none of its mutants"


def test_each_bug_of_the_kernel_keeps_a_case_that_detects_it() -> None:
    cells = {case.rpartition("/")[2]: labels for case, labels in _cells().items()}
    found = {*cells, *(f"{case}[{each.removeprefix(f'{_VM}-')}]" for case, labels in cells.items() for each in labels)}
    # Cells of cases that require traits of other VMs are listed, too.
    bugs = [bug for bug in kernel_mutant_table.read_table() if bug.cases]
    assert bugs
    assert not [bug.name for bug in bugs if not found.intersection(bug.cases)]


def _by_file(cells: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The labels of the cells of each file of cases."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for case, labels in cells.items():
        found[case.partition("::")[0].rpartition("/")[2]] += labels
    return dict(found)


def test_the_slow_cells_include_the_default_ones() -> None:
    default, deep = _cells(), _cells("--deep")
    assert all(set(labels) <= set(deep[case]) for case, labels in default.items())
    assert sum(map(len, deep.values())) > sum(map(len, default.values()))
