"""Where a run's time goes: before its first cell, in its cells, between them, and after the last."""

from __future__ import annotations

import time
from typing import Any

import pytest

from harness.core.events import Bus
from harness.matrix.workers import xdist_worker
from harness.report import time_accounts
from harness.report.measurements import Figures
from harness.report.time_accounts import Ledger


class Phases:
    """Marks the wall's time at each step of a run; a plugin of its own in the process that writes results.

    A worker only sums up what its rows spent and tells the controller in the end.
    """

    def __init__(self, config: pytest.Config, bus: Bus, began: float) -> None:
        """`began` is the launch, on the monotonic clock."""
        self._config = config
        self._ledger = Ledger(bus)
        self._began = self._loop = self._first = self._last = began
        self._processes: set[str] = set()
        self._busy = 0.0
        config.pluginmanager.register(self, "pinpoint-phases")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """All is collected."""
        self._loop = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a cell, or of a test of the harness itself, has ended; with pytest-xdist in a worker."""
        now = time.monotonic()
        if not self._processes:
            self._first = now - report.duration
        self._processes.add(getattr(report, "worker_id", ""))
        self._busy += report.duration
        self._last = now

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - a class that pytest-xdist does not export
        """A worker has ended."""
        self._ledger.take(xdist_worker.received_time_account(node))

    def pytest_sessionfinish(self) -> None:
        """In a worker: its guests are gone; tell what they took."""
        if xdist_worker.is_worker(self._config):
            xdist_worker.send_time_account(self._config, self._ledger.spent)

    def keep(self, figures: Figures) -> None:
        """Keep what each phase took.

        `phase.start_s`, `ready_s`, `cells_s` and `end_s` follow each other and make up the run; `phase.idle_s` is what
        its processes stood idle together while there were cells.
        """
        now = time.monotonic()
        cells = self._last - self._first
        for name, seconds in {
            "start": self._loop - self._began,
            "ready": self._first - self._loop,
            "cells": cells,
            "end": now - self._last,
            "idle": max(0.0, len(self._processes) * cells - self._busy),
        }.items():
            figures.add(f"phase.{name}_s", round(seconds, 3), "s")
        time_accounts.keep(figures, self._ledger.spent)
