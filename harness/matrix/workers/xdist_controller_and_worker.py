"""A run under pytest-xdist. Each worker runs rows or parts of rows; only the controller writes results."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from harness.matrix import vm_order_and_row_division
from harness.matrix.cells.selection import CellId, cell_of
from harness.report.time_accounts import Spent

_CONFIG = "pinpoint_config"
_SPENT = "pinpoint_spent"
# How often the board is updated while the controller waits for its workers.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration that the controller sends a worker before it starts.

    `results_directory` is where results go, `vm_names_in_order` is the order of rows, and `controller_address` is the
    address of the controller's socket. `distributes_cell_groups` is true if pytest-xdist distributes groups of cells;
    `parts_per_row` is the number of groups in a row. `past_durations` are the durations of past runs, by VM and
    cell_duration_cache.case_and_mutant_key().
    """

    results_directory: str
    vm_names_in_order: Sequence[str]
    controller_address: str
    distributes_cell_groups: bool
    parts_per_row: int
    past_durations: Mapping[str, Mapping[str, float]]


def is_worker(config: pytest.Config) -> bool:
    """Return True in a process that pytest-xdist started."""
    return hasattr(config, "workerinput")


def distributes_to_workers(config: pytest.Config) -> bool:
    """Return True in the process that distributes tests to workers and runs none."""
    return config.pluginmanager.hasplugin("dsession")


def keep_rows_together(config: pytest.Config) -> None:
    """Make `-n` distribute whole rows in our order, not single cells, because the cells of a row share a guest.

    A worker parses its own arguments, where `-n` alone does not select groups (setup_config() in pytest-xdist, 3.8).
    """
    if is_worker(config):
        config.option.loadgroup = worker_config(config).distributes_cell_groups
    elif getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadgroup"
        config.option.loadscopereorder = False


def mark_row_parts(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """In a worker: mark each cell with its part of the row, before pytest-xdist names its groups."""
    if not is_worker(config):
        return
    shared = worker_config(config)
    rows: defaultdict[str, list[tuple[pytest.Item, CellId]]] = defaultdict(list)
    for item in items:
        cell = cell_of(item)
        if cell is not None:
            rows[cell.vm].append((item, cell))
    for vm, row in rows.items():
        parts = vm_order_and_row_division.part_index_of_each_cell(
            [cell for _, cell in row], shared.parts_per_row, shared.past_durations.get(vm, {})
        )
        for (item, _), part in zip(row, parts, strict=True):
            item.add_marker(pytest.mark.xdist_group(vm if shared.parts_per_row == 1 else f"{vm}/{part}"))


def name_of_this_worker(config: pytest.Config) -> str:
    """In a worker: pytest-xdist's name of it, such as `gw0`."""
    return str(config.workerinput["workerid"])  # type: ignore[attr-defined]


def console_log_suffix_in_worker(config: pytest.Config) -> str:
    """In a worker: return the suffix of its console logs; empty unless other workers run parts of the same row."""
    parts = worker_config(config).parts_per_row
    return "" if parts == 1 else f".{name_of_this_worker(config)}"


def send_config(node: Any, worker_config: WorkerConfig) -> None:  # noqa: ANN401 - a class of pytest-xdist that it does not export
    """In the controller: send a worker its configuration before it starts."""
    node.workerinput[_CONFIG] = asdict(worker_config)


def worker_config(config: pytest.Config) -> WorkerConfig:
    """In a worker: return the configuration that the controller sent."""
    return WorkerConfig(**config.workerinput[_CONFIG])  # type: ignore[attr-defined]


@contextmanager
def flush_board_between_worker_reports(config: pytest.Config, flush_board: Callable[[], None]) -> Iterator[None]:
    """In the controller: call `flush_board` between the workers' reports, where nothing else prints.

    pytest-xdist's loop waits on a queue and calls `worker_<name>` for each entry (DSession.loop_once(), 3.8).
    """
    session: Any = config.pluginmanager.getplugin("dsession")
    session.worker_pinpoint_look = flush_board
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
    """In a worker: send the controller this process's time accounts."""
    config.workeroutput[_SPENT] = spent  # type: ignore[attr-defined]


def received_time_account(node: Any) -> Spent:  # noqa: ANN401 - as above
    """In the controller: return the time accounts of a worker that ended; empty when the worker was lost."""
    return dict(getattr(node, "workeroutput", {}).get(_SPENT, {}))
