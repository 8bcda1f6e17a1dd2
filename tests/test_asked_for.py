"""Cases that only an option asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.matrix.selection import asked_for

MARKED = ("", "crimes", "deep")


@pytest.mark.parametrize(
    ("crimes", "deep", "run"),
    [
        ("sample", False, [""]),
        ("all", False, ["", "crimes"]),
        ("sample", True, ["", "deep"]),
        ("all", True, ["", "crimes", "deep"]),
    ],
)
def test_what_each_option_asks_for(crimes: str, deep: bool, run: list[str]) -> None:
    items = [
        SimpleNamespace(mark=mark, get_closest_marker=lambda name, mark=mark: name if name == mark else None)
        for mark in MARKED
    ]
    asked = asked_for(cast(list[pytest.Item], items), crimes=crimes, deep=deep)
    assert [cast(SimpleNamespace, item).mark for item in asked] == run
