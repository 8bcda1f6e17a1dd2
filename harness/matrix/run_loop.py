"""The run loop. Each row runs as soon as its guest is up, so that a stock kernel is tested while others compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import pytest

from harness.matrix.cells.selection import cell_of
from harness.matrix.guests.fleet import Fleet

# How often the board is updated while no row is ready.
_LOOK_SECONDS = 0.5


def run(session: pytest.Session, fleet: Fleet, flush_board: Callable[[], None]) -> None:
    """Run the session's items: the harness's own tests, then each row when its guest is up.

    `flush_board` is called where nothing else prints: between items and while waiting. The loop stops for the same
    reasons as pytest's own.
    """
    own = [item for item in session.items if cell_of(item) is None]
    rows = _rows(session.items)
    booting, compared = rows_to_run_and_compare(session.items)
    fleet.start_preparing(booting, compared)
    _run_items(session, own, flush_board)
    while rows:
        vm = next((name for name in rows if name not in booting or fleet.is_ready(name)), None)
        if vm is None:
            fleet.wait_until_any_is_ready(list(rows), _LOOK_SECONDS)
            flush_board()
            continue
        _run_items(session, rows.pop(vm), flush_board)


def rows_to_run_and_compare(items: Iterable[pytest.Item]) -> tuple[list[str], list[str]]:
    """Return the rows that have a cell to run, in the items' order, and those that need a sibling's image."""
    running = {vm: cells for vm, row in _rows(items).items() if (cells := [item for item in row if not _skipped(item)])}
    return list(running), [vm for vm, row in running.items() if any(_compares(item) for item in row)]


def _rows(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    rows: dict[str, list[pytest.Item]] = {}
    for item in items:
        cell = cell_of(item)
        if cell is not None:
            rows.setdefault(cell.vm, []).append(item)
    return rows


def _compares(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "image_of" in item.fixturenames


def _skipped(item: pytest.Item) -> bool:
    return item.get_closest_marker("skip") is not None


def _run_items(session: pytest.Session, items: Sequence[pytest.Item], flush_board: Callable[[], None]) -> None:
    """Run one row as pytest's own loop does. Its last item has no next item, so all fixtures end with the row."""
    for item, following in zip_longest(items, items[1:]):
        flush_board()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
