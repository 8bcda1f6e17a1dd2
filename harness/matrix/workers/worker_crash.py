"""A worker that dies with a cell: that cell is told of, and the rest of its row runs in another."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

from harness.matrix.cells.cell_result import CellWatch
from harness.matrix.run import MatrixRun
from harness.verdict.verdict import Verdict

_REASON = "the process that ran it is gone: killed, or out of memory; see the host's own log"


class RowScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """pytest-xdist's, but for a cell that a worker died of: 3.8 runs it again, until no worker is left to die of it."""

    def remove_node(self, node: Any) -> str | None:  # noqa: ANN401 - a class of pytest-xdist that it does not export
        """Take a worker off; the cell that it died of, None when it had none left to run."""
        for unit in self.assigned_work[node].values():
            for name, ended in unit.items():
                if not ended:
                    unit[name] = True
                    super().remove_node(node)
                    return str(name)
        super().remove_node(node)
        return None


class WorkerCrashes:
    """A plugin of pytest-xdist's controller."""

    def __init__(self, run: MatrixRun) -> None:
        self._run = run

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object:  # noqa: ANN401 - as above
        """Hands out rows as pytest-xdist does, but no cell again that a worker has died of."""
        return RowScheduling(config, log) if config.option.dist == "loadgroup" else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """A worker died with this cell: it is told of as any other, from what the controller knows."""
        cell = self._run.leader.asked.get(crashitem)
        if cell:
            watch = CellWatch(cell, self._run.recipes[cell.vm].traits.model_dump())
            watch.worse(Verdict.HARNESS_ERROR, _REASON)
            self._run.bundles.write(watch, ())
            report.pinpoint_cell = watch.record().model_dump(mode="json")  # type: ignore[attr-defined]
