"""Where a run's time goes: before its first cell, in its cells, between them, and after the last."""

from __future__ import annotations

import time

import pytest

from harness.core.events import Bus
from harness.report import time_accounts
from harness.report.metrics_with_goals import Figures
from harness.report.time_accounts import Ledger, Spent


class PhaseTimeRecorder:
    """Records the wall-clock time at each step of a run; registered as a pytest plugin.

    The process of a shard only sums up the time of its row; ShardRun sends the sum to the controller.
    """

    def __init__(self, config: pytest.Config, bus: Bus, began: float) -> None:
        """`began` is the time of the launch, on the monotonic clock."""
        self._ledger = Ledger(bus)
        self._began = self._loop = self._first = self._last = began
        self._processes: set[str] = set()
        self._busy = 0.0
        config.pluginmanager.register(self, "pinpoint-phases")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Record that collection has ended."""
        self._loop = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record that a phase of a cell or of a test has ended, perhaps in another process."""
        now = time.monotonic()
        if not self._processes:
            self._first = now - report.duration
        self._processes.add(getattr(report, "worker_id", ""))
        self._busy += report.duration
        self._last = now

    def add_accounts(self, spent: Spent) -> None:
        """Add the time accounts of another process, which ends."""
        self._ledger.merge_accounts(spent)

    @property
    def row_time_accounts(self) -> Spent:
        """The time accounts of this process's rows and of the processes that have ended."""
        return self._ledger.seconds_by_vm_and_activity

    def record_figures(self, figures: Figures) -> None:
        """Add the figures of how long each phase took.

        `phase.start_s`, `ready_s`, `cells_s` and `end_s` follow each other and add up to the run; `phase.idle_s` is the
        idle time of all processes together while cells ran.
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
        time_accounts.record_figures(figures, self._ledger.seconds_by_vm_and_activity)
