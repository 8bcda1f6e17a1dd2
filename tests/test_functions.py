"""Rows begin in the right order: built before unbuilt, slowest first."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe, load_all
from harness.matrix import vm_order_and_row_division
from harness.report import cell_duration_cache
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict


def cell(case: str, vm: str, seconds: float, mutant: str = "") -> Cell:
    return Cell(
        file="cases/test_x.py",
        case=case, vm=vm, verdict=Verdict.PASS, reason="", seconds=seconds, kernel_release="", arch="", accelerator="",
        traits={}, image_key="", witnesses=[], mutant=mutant, bundle="",
    )  # fmt: skip


def names(monkeypatch: pytest.MonkeyPatch, built: set[str], seconds: dict[str, float]) -> list[str]:
    def is_built(recipe: Recipe, _workshop: BuildContext) -> bool:
        return recipe.name in built

    monkeypatch.setattr(vm_order_and_row_division, "is_built", is_built)
    core = [recipe for recipe in load_all().values() if recipe.tier == "core"]
    return vm_order_and_row_division.names_in_start_order(core, BuildContext.in_cache(Bus()), seconds)


def test_nothing_built_begins_with_what_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, set(), {"parisc": 100.0})
    assert found == ["arm64-debian", "x86_64-debian", "parisc", "x86_64-fsections"]


def test_built_rows_come_before_others_the_slowest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"x86_64-debian": 20.0, "parisc": 100.0, "arm64-debian": 500.0}
    found = names(monkeypatch, {"parisc", "x86_64-debian", "x86_64-fsections"}, seconds)
    assert found == ["parisc", "x86_64-debian", "x86_64-fsections", "arm64-debian"]


def test_durations_are_of_every_cell_that_ever_ran(tmp_path: Path) -> None:
    kept = tmp_path / "durations.json"
    assert cell_duration_cache.seconds_by_vm(kept) == {}
    cell_duration_cache.save_seconds(kept, [cell("test_a", "parisc", 1.0), cell("test_a", "parisc", 2.0, "text-base")])
    cell_duration_cache.save_seconds(kept, [cell("test_a", "parisc", 4.0), cell("test_b", "arm64-debian", 8.0)])
    assert cell_duration_cache.seconds_by_vm(kept) == {"parisc": 6.0, "arm64-debian": 8.0}


def test_durations_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    kept = tmp_path / "durations.json"
    kept.write_text("{")
    assert cell_duration_cache.seconds_by_vm(kept) == {}
