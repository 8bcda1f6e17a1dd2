"""A target module stays loaded for the next cell only if that cell uses this target and no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.guest.guest import Guest
from harness.landing.target import Target
from harness.matrix.guests import loaded_targets


class Row:
    """A row's guest whose targets record what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guest = cast(Guest, type("Stand", (), {})())
        self.done: list[str] = []
        monkeypatch.setattr(loaded_targets, "Target", self._target)

    def _target(self, guest: Guest, build: str) -> Target:
        def note(what: str) -> Any:  # noqa: ANN401 - stands in
            return lambda: self.done.append(f"{what} {build}")

        stand = SimpleNamespace(
            guest=guest,
            build=build,
            module=build.rpartition("/")[2],
            previous={},
            load=note("load"),
            unload=note("unload"),
        )
        return cast(Target, stand)

    def cell(self, *builds: str) -> list[Target]:
        """Run a cell that uses these builds; return its targets."""
        loaded_targets.unload_unwanted_target(self.guest, builds)
        targets = [loaded_targets.acquire(self.guest, build) for build in builds]
        for target in reversed(targets):
            target.previous = {".text": 1}
            loaded_targets.keep_if_alone_or_unload(target, alone=len(builds) == 1)
        return targets


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Row:
    return Row(monkeypatch)


def test_the_same_one_again_is_not_loaded_again(row: Row) -> None:
    first, second = row.cell("one"), row.cell("one")
    assert row.done == ["load one"]
    assert first == second
    assert loaded_targets.names_of_kept_modules(row.guest) == {"one"}
    assert loaded_targets.acquire(row.guest, "one").previous == {}


@pytest.mark.parametrize("then", [(), ("two",), ("one", "two"), ("other/one",)])
def test_what_is_not_asked_for_alone_goes_before_the_cell_begins(row: Row, then: tuple[str, ...]) -> None:
    row.cell("one")
    row.cell(*then)
    assert row.done[:2] == ["load one", "unload one"]
    assert row.done[2 : 2 + len(then)] == [f"load {build}" for build in then]


def test_one_of_several_is_never_kept(row: Row) -> None:
    row.cell("one", "two")
    assert row.done == ["load one", "load two", "unload two", "unload one"]
    assert loaded_targets.names_of_kept_modules(row.guest) == set()
