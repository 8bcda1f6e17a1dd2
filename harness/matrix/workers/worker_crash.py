"""Handles a worker that died: its cell gets a verdict, and another worker runs the rest of the row."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

from harness.matrix.cells.cell_phases_and_verdict import CellWatch
from harness.matrix.cells.cell_record_on_pytest_report import attach_cell
from harness.matrix.controller_run import ControllerRun
from harness.verdict.cell_verdict_enum import Verdict

_REASON = "the process that ran it is gone: killed, or out of memory; see the host's own log"


class RowSchedulingWithoutRetries(LoadGroupScheduling):  # type: ignore[misc]
    """pytest-xdist's scheduler without its retries: 3.8 runs the cell that killed a worker again in every worker."""

    def remove_node(self, node: Any) -> str | None:  # noqa: ANN401 - a class of pytest-xdist that it does not export
        """Remove a worker; return the cell that it was running, or None if it had none left."""
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

    def __init__(self, run: ControllerRun) -> None:
        self._run = run

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object:  # noqa: ANN401 - as above
        """Return a scheduler like pytest-xdist's that does not run a cell again if it killed a worker."""
        return RowSchedulingWithoutRetries(config, log) if config.option.dist == "loadgroup" else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Record the cell that was running when a worker died."""
        cell = self._run.server_for_workers.selected_cells.get(crashitem)
        if cell:
            watch = CellWatch(cell, self._run.recipes[cell.vm].traits.model_dump())
            watch.set_if_worse(Verdict.HARNESS_ERROR, _REASON)
            self._run.bundle_writer.write(watch, ())
            attach_cell(report, watch.as_record())
