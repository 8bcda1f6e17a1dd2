"""Rows begin in the right order: built before unbuilt, slowest first."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import HostError
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe, load_all
from harness.matrix import vm_order_and_row_division
from harness.report import cell_duration_cache
from harness.report.build_durations import BuildDurations
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict


def cell(case: str, vm: str, seconds: float, mutant: str = "") -> Cell:
    return Cell(
        file="cases/test_x.py",
        case=case, vm=vm, verdict=Verdict.PASS, reason="", seconds=seconds, kernel_release="", arch="", accelerator="",
        traits={}, image_key="", witnesses=[], mutant=mutant, bundle="",
    )  # fmt: skip


def names(
    monkeypatch: pytest.MonkeyPatch,
    built: set[str],
    seconds: dict[str, float],
    build_seconds: dict[str, float] | None = None,
    no_compiler: str = "",
) -> list[str]:
    def is_built(recipe: Recipe, _workshop: BuildContext) -> bool:
        if recipe.name == no_compiler:
            raise HostError("gcc is not installed")
        return recipe.name in built

    monkeypatch.setattr(vm_order_and_row_division, "is_built", is_built)
    core = [recipe for recipe in load_all().values() if recipe.tier == "core"]
    return vm_order_and_row_division.names_in_start_order(
        core, BuildContext.in_cache(Bus()), seconds, build_seconds or {}
    )


def test_nothing_built_begins_with_what_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, set(), {"parisc": 100.0})
    assert found == ["arm64-debian", "x86_64-debian", "parisc", "x86_64-fsections"]


def test_built_rows_come_before_others_the_slowest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"x86_64-debian": 20.0, "parisc": 100.0, "arm64-debian": 500.0}
    found = names(monkeypatch, {"parisc", "x86_64-debian", "x86_64-fsections"}, seconds)
    assert found == ["parisc", "x86_64-debian", "x86_64-fsections", "arm64-debian"]


def test_the_longest_build_begins_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, {"parisc"}, {}, {"x86_64-debian": 60.0, "arm64-debian": 50.0, "parisc": 900.0})
    assert found == ["parisc", "x86_64-debian", "arm64-debian", "x86_64-fsections"]
    found = names(monkeypatch, {"parisc"}, {}, {"parisc": 900.0, "x86_64-fsections": 100.0}, no_compiler="parisc")
    assert found == ["arm64-debian", "x86_64-debian", "parisc", "x86_64-fsections"]


def test_durations_of_builds_are_those_of_what_was_built(tmp_path: Path) -> None:
    kept, bus = tmp_path / "build-durations.json", Bus()
    durations = BuildDurations(kept, bus)
    assert durations.past == {}
    durations.save()
    assert not kept.exists()
    for vm, step, detail in (("a", "kernel", "on host x"), ("a", "boot", ""), ("b", "kernel", "from the store")):
        with bus.step(vm, step) as each:
            each.set_final_detail(detail)
    with pytest.raises(HostError), bus.step("a", "modules"):
        raise HostError("lost")
    durations.save()
    assert BuildDurations(kept, Bus()).past == {"a": {"kernel": 0.0}}
    other = BuildDurations(kept, bus)
    with bus.step("b", "modules"):
        pass
    other.save()
    assert BuildDurations(kept, Bus()).past == {"a": {"kernel": 0.0}, "b": {"modules": 0.0}}


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
