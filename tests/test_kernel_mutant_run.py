"""The hunt for kernel mutants runs cases in order, counts only failed claims as kills, and refuses wrong use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import BootError, HostError, UsageError
from harness.images.kernel_mutant_table import KernelMutant
from harness.images.vm_recipe import load_all
from harness.matrix.cells.selection import CellId
from harness.matrix.commands import kernel_mutant_run
from harness.matrix.commands.kernel_mutant_run import KernelMutantResult, _Control, _Hunt
from harness.matrix.guests.kernel_mutant_switch import switch_on
from harness.report.record import Cell
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict

MUTANT = KernelMutant(
    number=7,
    name="seven",
    kind="kind",
    claim="claim",
    files=("a.c",),
    arch=("x86_64",),
    cases=("test_b.py::test_two", "test_b.py::test_one[x]"),
)


def report(verdict: Verdict, case: str = "test_two", file: str = "cases/test_b.py") -> Any:  # noqa: ANN401
    """Return a pytest report with a cell."""
    cell = Cell(
        file=file,
        case=case,
        vm="vm",
        verdict=verdict,
        reason="why",
        seconds=1.0,
        kernel_release="",
        arch="",
        accelerator="",
        traits={},
        image_key="",
        witnesses=[],
        mutant="",
        bundle="",
    )
    return SimpleNamespace(pinpoint_cell=cell.model_dump(mode="json"), nodeid=f"{file}::{case}[vm]")


def hunt() -> tuple[_Hunt, Any]:
    """Return a hunt and the session that it may end."""
    found, session = _Hunt(MUTANT), SimpleNamespace(shouldfail=False)
    found.pytest_sessionstart(session)  # type: ignore[arg-type]
    return found, session


def test_only_a_failed_claim_kills() -> None:
    """A crash is recorded as seen elsewhere and the session continues; a failure ends it."""
    found, session = hunt()
    for verdict in (Verdict.PASS, Verdict.SKIP, Verdict.KNOWN_FAIL, Verdict.OOPS, Verdict.HARNESS_ERROR):
        found.pytest_runtest_logreport(report(verdict))
    assert (found.killer, session.shouldfail) == (None, False)
    assert [cell.verdict for cell in found.elsewhere] == [Verdict.OOPS, Verdict.HARNESS_ERROR]
    assert found.cells == 4
    found.pytest_runtest_logreport(report(Verdict.FAIL))
    assert found.where == "test_b.py::test_two"
    assert session.shouldfail


def test_plugins_fit_into_a_set() -> None:
    """pluggy's get_plugins() returns a set."""
    assert len({hunt()[0], hunt()[0], _Control(set())}) == 3


def test_a_bug_is_not_judged_without_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If pytest itself fails, no bug has survived: the run ends, and the message names pytest's output."""
    recipe, directory = load_all()["x86_64-mutants"], RunDirectory.create(tmp_path)
    monkeypatch.setattr(kernel_mutant_run, "_session", lambda *_: pytest.ExitCode.INTERNAL_ERROR)
    with pytest.raises(HostError, match="no cell ran with kernel mutant 7 seven on x86_64-mutants") as raised:
        kernel_mutant_run._tried(recipe, MUTANT, directory, [])
    assert "pytest.log" in str(raised.value)


def test_given_up_after_many_deaths() -> None:
    found, session = hunt()
    while not session.shouldfail:
        found.pytest_runtest_logreport(report(Verdict.HANG))
    assert found.killer is None
    assert len(found.elsewhere) > 1


def test_order_of_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's cases come first, in the table's order, with all their parameters; mutants of probes do not run."""
    cells = {
        "one-x": CellId("test_one[x]", "vm", "", "", "cases/test_b.py"),
        "one-y": CellId("test_one[y]", "vm", "", "", "cases/test_b.py"),
        "two-z": CellId("test_two[z]", "vm", "", "", "cases/test_b.py"),
        "other file": CellId("test_two", "vm", "", "", "cases/test_a.py"),
        "mutant": CellId("test_two", "vm", "some", "", "cases/test_b.py"),
    }
    monkeypatch.setattr(kernel_mutant_run, "cell_of", lambda item: cells[item.name])
    items = [SimpleNamespace(name=name, get_closest_marker=lambda _: None) for name in cells]
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda **_: None))
    hunt()[0].pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    assert [item.name for item in items] == ["two-z", "one-x", "one-y", "other file"]


@pytest.mark.parametrize(
    ("named", "index"),
    [
        ("test_b.py::test_two[z]", 0),
        ("test_b.py::test_one[x]", 1),
        ("test_b.py::test_one[y]", None),
        ("test_b.py", None),
    ],
)
def test_a_case_of_the_table(named: str, index: int | None) -> None:
    assert MUTANT.index_of_case(named) == index


def test_slow_cases_run_only_if_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {
        "named": CellId("test_two", "vm", "", "", "cases/test_b.py"),
        "other": CellId("test_three", "vm", "", "", "cases/test_b.py"),
    }
    monkeypatch.setattr(kernel_mutant_run, "cell_of", lambda item: cells[item.name])
    items = [SimpleNamespace(name=name, get_closest_marker=lambda mark: mark == "deep" or None) for name in cells]
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda **_: None))
    hunt()[0].pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    assert [item.name for item in items] == ["named"]


def test_control_keeps_what_holds() -> None:
    control = _Control({"test_b.py::test_two"})
    control.pytest_runtest_logreport(report(Verdict.FAIL))
    assert not control.held
    control.pytest_runtest_logreport(report(Verdict.PASS))
    assert control.held == {"test_b.py::test_two"}


def test_outcome_in_words() -> None:
    """The outcome is one line; for a survivor it shows what happened instead of a failed claim."""
    own = {"vm": "vm", "number": 7, "name": "seven", "past": False}
    killed = KernelMutantResult.model_validate({**own, "killer": "test_b.py::test_two", "reason": "why"})
    survivor = KernelMutantResult.model_validate({**own, "elsewhere": ["test_one was oops: BUG"], "cells": 3})
    equivalent = KernelMutantResult.model_validate({**own, "equivalent": True, "reason": "no such code"})
    assert str(killed) == "vm 7 seven: killed by test_b.py::test_two: why"
    other = killed.model_copy(update={"unnamed_killer": True})
    assert str(other) == "vm 7 seven: killed by test_b.py::test_two, which its entry does not name: why"
    assert "SURVIVED 3 cells" in str(survivor)
    assert "oops: BUG" in str(survivor)
    assert "equivalent: no such code" in str(equivalent)
    assert [each.survived for each in (killed, survivor, equivalent)] == [False, True, False]


@pytest.mark.parametrize("arguments", [["-n", "4"], ["-n4"], ["--dist=loadgroup"]])
def test_runs_in_one_process(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="one process"):
        kernel_mutant_run.run_kernel_mutants_from_options([], "1", arguments)


def test_a_shared_kernel_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --vm the bugs run on the VM that its recipe names for them, not on each VM with the patch."""
    tried: list[str] = []
    monkeypatch.setattr(
        kernel_mutant_run, "run_kernel_mutants", lambda recipes, *_: tried.extend(each.name for each in recipes) or 0
    )
    assert kernel_mutant_run.run_kernel_mutants_from_options([], "1", []) == 0
    assert sorted(tried) == ["arm64-mutants", "parisc-mutants", "x86_64-mutants"]
    tried.clear()
    assert kernel_mutant_run.run_kernel_mutants_from_options(["x86_64-fsections"], "1", []) == 0
    assert tried == ["x86_64-fsections"]


def test_vm_without_the_patch() -> None:
    with pytest.raises(UsageError, match="kernel-mutants"):
        kernel_mutant_run.run_kernel_mutants_from_options(["x86_64-debian"], "1", [])


@pytest.mark.parametrize(("answer", "in_force"), [("7\n", True), ("0\n", False), ("", False)])
def test_bug_must_be_in_force(answer: str, *, in_force: bool) -> None:
    """A bug is in force only if its number can be read back; a successful write is not enough."""
    guest: Any = SimpleNamespace(name="vm", run_script=lambda _: SimpleNamespace(stdout=answer))
    if in_force:
        switch_on(guest, 7)
    else:
        with pytest.raises(BootError, match="not in force"):
            switch_on(guest, 7)
