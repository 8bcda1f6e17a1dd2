"""Running under pytest-xdist: one row a worker, results written by the controller alone."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from harness.matrix import row_order
from harness.matrix.cells.selection import CellId, cell_of
from harness.report.time_accounts import Spent

_LENT = "pinpoint_lent"
_SPENT = "pinpoint_spent"
# How often a controller that waits for its workers lets the board speak.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerConfig:
    """What the controller lends a worker.

    Where results go, the order of the rows, where the foreman listens, whether cells are handed out in groups, in how
    many parts each row is, and what its cells took before.
    """

    directory: str
    rows: Sequence[str]
    foreman: str
    grouped: bool
    parts: int
    seconds: Mapping[str, Mapping[str, float]]


def is_worker(config: pytest.Config) -> bool:
    """True in a process that pytest-xdist started."""
    return hasattr(config, "workerinput")


def is_controller(config: pytest.Config) -> bool:
    """True in the process that hands tests to workers and runs none."""
    return config.pluginmanager.hasplugin("dsession")


def keep_rows_together(config: pytest.Config) -> None:
    """Let `-n` hand out rows in our order, not single cells: a row shares its guest.

    A worker reads its own arguments, where `-n` alone is no word about groups (setup_config() in pytest-xdist, 3.8).
    """
    if is_worker(config):
        config.option.loadgroup = worker_config(config).grouped
    elif getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadgroup"
        config.option.loadscopereorder = False


def mark_rows(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """In a worker: tell pytest-xdist which part of a row each cell is in, before it names its groups."""
    if not is_worker(config):
        return
    shared = worker_config(config)
    rows: defaultdict[str, list[tuple[pytest.Item, CellId]]] = defaultdict(list)
    for item in items:
        cell = cell_of(item)
        if cell is not None:
            rows[cell.vm].append((item, cell))
    for vm, row in rows.items():
        parts = row_order.divided([cell for _, cell in row], shared.parts, shared.seconds.get(vm, {}))
        for (item, _), part in zip(row, parts, strict=True):
            item.add_marker(pytest.mark.xdist_group(vm if shared.parts == 1 else f"{vm}/{part}"))


def suffix(config: pytest.Config) -> str:
    """What tells the console logs of this process from those of others that run parts of the same row."""
    if not is_worker(config) or worker_config(config).parts == 1:
        return ""
    return f".{config.workerinput['workerid']}"  # type: ignore[attr-defined]


def send_config(node: Any, worker_config: WorkerConfig) -> None:  # noqa: ANN401 - a class of pytest-xdist that it does not export
    """From the controller, before the worker starts."""
    node.workerinput[_LENT] = asdict(worker_config)


def worker_config(config: pytest.Config) -> WorkerConfig:
    """In a worker: what the controller lent."""
    return WorkerConfig(**config.workerinput[_LENT])  # type: ignore[attr-defined]


@contextmanager
def board_updates(config: pytest.Config, speak: Callable[[], None]) -> Iterator[None]:
    """In the controller: let `speak` be called between the workers' reports, where nothing else prints.

    pytest-xdist's loop waits on a queue and calls `worker_<name>` for what it finds there (DSession.loop_once(), 3.8).
    """
    session: Any = config.pluginmanager.getplugin("dsession")
    session.worker_pinpoint_look = speak
    over = threading.Event()

    def remind() -> None:
        while not over.wait(_LOOK_SECONDS):
            session.queue.put(("pinpoint_look", {}))

    reminder = threading.Thread(target=remind, name="board", daemon=True)
    reminder.start()
    try:
        yield
    finally:
        over.set()
        reminder.join()


def send_time_account(config: pytest.Config, spent: Spent) -> None:
    """From a worker: what its time went into."""
    config.workeroutput[_SPENT] = spent  # type: ignore[attr-defined]


def received_time_account(node: Any) -> Spent:  # noqa: ANN401 - as above
    """In the controller: what a worker that ended told; nothing when it was lost."""
    return dict(getattr(node, "workeroutput", {}).get(_SPENT, {}))
