"""Running under pytest-xdist: one row a worker, results written by the controller alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.selection import CellId, cell_of

_DIRECTORY = "pinpoint_directory"
_ASKED = "pinpoint_asked"


def is_worker(config: pytest.Config) -> bool:
    """True in a process that pytest-xdist started."""
    return hasattr(config, "workerinput")


def is_controller(config: pytest.Config) -> bool:
    """True in the process that hands tests to workers and runs none."""
    return config.pluginmanager.hasplugin("dsession")


def keep_rows_together(config: pytest.Config) -> None:
    """Let `-n` hand out rows, not single cells: a row shares its guest."""
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadgroup"


def mark_rows(items: Iterable[pytest.Item]) -> None:
    """Tell pytest-xdist which cells are one row."""
    for item in items:
        cell = cell_of(item)
        if cell is not None:
            item.add_marker(pytest.mark.xdist_group(cell.vm))


def lend_directory(node: Any, directory: Path) -> None:  # noqa: ANN401 - a class of pytest-xdist that it does not export
    """Tell a worker where the run's results go."""
    node.workerinput[_DIRECTORY] = str(directory)


def lent_directory(config: pytest.Config) -> Path:
    """In a worker: where the run's results go."""
    return Path(config.workerinput[_DIRECTORY])  # type: ignore[attr-defined]


def tell_asked(config: pytest.Config, asked: dict[str, CellId]) -> None:
    """From a worker: the cells that were asked for. Every worker collects them all."""
    config.workeroutput[_ASKED] = {node: asdict(cell) for node, cell in asked.items()}  # type: ignore[attr-defined]


def told_asked(node: Any) -> dict[str, CellId]:  # noqa: ANN401 - as above
    """In the controller: what a worker that ended told; nothing when it was lost."""
    told = getattr(node, "workeroutput", {}).get(_ASKED, {})
    return {name: CellId(**cell) for name, cell in told.items()}
