"""Some cases run only with an option."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.matrix.cells.selection import without_optional_cells

MARKED = ("", "crash_triggers", "deep")


@pytest.mark.parametrize(
    ("crash_triggers", "deep", "run"),
    [
        ("sample", False, [""]),
        ("all", False, ["", "crash_triggers"]),
        ("sample", True, ["", "deep"]),
        ("all", True, ["", "crash_triggers", "deep"]),
    ],
)
def test_what_each_option_selects(crash_triggers: str, deep: bool, run: list[str]) -> None:
    items = [
        SimpleNamespace(mark=mark, get_closest_marker=lambda name, mark=mark: name if name == mark else None)
        for mark in MARKED
    ]
    selected = without_optional_cells(cast(list[pytest.Item], items), crash_triggers=crash_triggers, deep=deep)
    assert [cast(SimpleNamespace, item).mark for item in selected] == run
