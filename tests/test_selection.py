"""Some cases run only with an option."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core import paths
from harness.images.vm_recipe import Recipe, load_all
from harness.matrix.cells.selection import (
    left_out_markers,
    without_cells_outside_test_cells,
    without_optional_cells,
    without_repeated_mutants,
)

MARKED = ("", "crash_triggers", "deep", "full")
DEFAULTS = {"crash_triggers": "sample", "deep": False, "full": False, "schedules": "sample", "sweep": "sample"}


@pytest.mark.parametrize(
    ("options", "named", "run"),
    [
        ({}, False, [""]),
        ({"crash_triggers": "all"}, False, ["", "crash_triggers"]),
        ({"deep": True}, False, ["", "deep"]),
        ({"sweep": "kernel"}, False, ["", "deep"]),
        ({"schedules": "all"}, False, ["", "deep"]),
        ({"full": True}, False, ["", "deep", "full"]),
        ({"full": True, "crash_triggers": "all"}, False, list(MARKED)),
        ({}, True, ["", "deep", "full"]),
    ],
)
def test_what_each_option_selects(options: dict[str, str | bool], named: bool, run: list[str]) -> None:
    items = [
        SimpleNamespace(mark=mark, get_closest_marker=lambda name, mark=mark: name if name == mark else None)
        for mark in MARKED
    ]
    left_out = left_out_markers(argparse.Namespace(**{**DEFAULTS, **options}), named=named)
    selected = without_optional_cells(cast(list[pytest.Item], items), left_out)
    assert [cast(SimpleNamespace, item).mark for item in selected] == run


def _items(*cells: tuple[str, str]) -> list[pytest.Item]:
    """Cells of test_a.py by VM and label; an empty VM is a test of the harness itself."""
    return cast(
        list[pytest.Item],
        [
            SimpleNamespace(
                name=f"{case}[{vm}]" if vm else case,
                path=Path("/root/cases/test_a.py"),
                callspec=SimpleNamespace(params={"vm": vm}) if vm else None,
                config=SimpleNamespace(rootpath=Path("/root"), option=SimpleNamespace(loader=None)),
            )
            for case, vm in cells
        ],
    )


def _recipe(name: str, *test_cells: str) -> Recipe:
    return cast(Recipe, SimpleNamespace(name=name, test_cells=test_cells))


def test_a_vm_with_test_cells_runs_only_these() -> None:
    items = _items(("test_x", "core"), ("test_y", "core"), ("test_x", "small"), ("test_y", "small"), ("test_unit", ""))
    recipes = [_recipe("core"), _recipe("small", "test_a.py::test_y", "test_other.py")]
    kept = without_cells_outside_test_cells(items, recipes, complete=True)
    assert [item.name for item in kept] == ["test_x[core]", "test_y[core]", "test_y[small]", "test_unit"]
    whole = [_recipe("core"), _recipe("small", "test_a.py")]
    assert without_cells_outside_test_cells(items, whole, complete=True) == items


def test_test_cells_that_match_nothing_are_an_error() -> None:
    items = _items(("test_x", "small"))
    recipes = [_recipe("small", "test_a.py::test_x", "test_a.py::test_gone")]
    with pytest.raises(pytest.UsageError, match=r"small\.toml: `test_cells` names 'test_a\.py::test_gone'"):
        without_cells_outside_test_cells(items, recipes, complete=True)
    assert without_cells_outside_test_cells(items, recipes, complete=False) == items


def _mutant_item(name: str, mutant: str) -> pytest.Item:
    (item,) = _items((name, "vm"))
    item.callspec.params["mutant"] = mutant  # type: ignore[attr-defined]
    return item


def test_a_mutant_runs_with_the_first_value_of_a_parametrized_case() -> None:
    cells = [("test_x[a]", "off"), ("test_x[b]", "off"), ("test_x[b]", "lies"), ("test_x[a]", ""), ("test_x[b]", "")]
    items = [_mutant_item(name, mutant) for name, mutant in [*cells, ("test_y[b]", "off")]]
    kept = without_repeated_mutants(items)
    assert kept == [items[0], *items[2:]]


def test_every_file_that_test_cells_name_exists() -> None:
    small = {recipe.name: recipe.test_cells for recipe in load_all().values() if recipe.test_cells}
    assert {"x86_64-debian-5.10", "x86_64-debian-6.12"} <= set(small)
    for names in small.values():
        assert all((paths.CASES / name.partition("::")[0]).is_file() for name in names)
