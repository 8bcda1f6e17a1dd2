"""Some cases run only with an option."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import cast

import pytest

from harness.matrix.cells.selection import left_out_markers, without_optional_cells

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
