"""Replays the messages of a cell shard's process into the hooks of the controller's pytest."""

from __future__ import annotations

import builtins
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest

from harness.core.events import Bus, Event, EventKind
from harness.matrix.cell_shards import shard_files
from harness.matrix.cell_shards.division import CellShard
from harness.matrix.cell_shards.shard_order import Message
from harness.matrix.cells.cell_phases_and_verdict import CellWatch
from harness.matrix.cells.cell_record_on_pytest_report import attach_cell, reported_cell
from harness.matrix.cells.failure_bundles import Bundles
from harness.matrix.cells.selection import CellId, cell_of
from harness.report.run_dir import RunDirectory
from harness.report.time_accounts import Spent
from harness.verdict.cell_verdict_enum import Verdict

_Phase = Literal["setup", "call", "teardown"]
_FOLLOWING: dict[str, _Phase] = {"": "setup", "setup": "call", "call": "teardown"}


class ReportReplay:
    """Replays one process. It knows which of its tests have ended, and which one is open.

    `add_spent` is called with the time accounts of the process. Each test ends once: what comes after its end is left
    out.
    """

    def __init__(
        self,
        config: pytest.Config,
        shard: CellShard,
        lane: str,
        directory: Path,
        run_directory: RunDirectory,
        bus: Bus,
        add_spent: Callable[[Spent], None],
    ) -> None:
        self._config = config
        self._lane = lane
        self._directory = directory
        self._run_directory = run_directory
        self._bus = bus
        self._add_spent = add_spent
        self._items = {item.nodeid: item for item in shard.items}
        self._ended: set[str] = set()
        self._open = ""
        self._phase = ""
        self._passed = True
        self.began_any = False
        self.open_test_failed = False
        self.survivors: list[CellId] = []
        self.skipped_mutants: list[CellId] = []

    @property
    def open_item(self) -> pytest.Item | None:
        """The test that has begun and not ended."""
        return self._items.get(self._open)

    @property
    def items_not_begun(self) -> list[pytest.Item]:
        """The tests that have not begun, in order."""
        return [item for name, item in self._items.items() if name not in self._ended and name != self._open]

    def receive(self, message: Message) -> None:
        """Replay one message."""
        match message:
            case {"begin": name} if name in self._items and name not in self._ended:
                self._begin(self._items[name])
            case {"report": fields}:
                self._report(fields)
            case {"end": name} if name in self._ended:
                self._config.hook.pytest_runtest_logfinish(nodeid=name, location=self._items[name].location)
            case {"warning": fields}:
                self._warn(**fields)
            case {"event": fields}:
                self._bus.publish(Event(**{**fields, "kind": EventKind(fields["kind"])}))
            case {"spent": accounts}:
                self._add_spent(accounts)

    def lose_open_test(self, reason: str, bundles: Bundles, traits_of: Callable[[str], dict[str, bool]]) -> None:
        """Report the open test as lost, in the phase that was running: a cell with the verdict `harness-error`."""
        item = self.open_item
        if item is None:
            return
        phase = _FOLLOWING[self._phase] if self._passed or self._phase == "call" else "teardown"
        reports = [_lost_report(item, phase, reason)]
        if phase != "teardown":
            reports.append(_empty_teardown(item))
        if cell := cell_of(item):
            watch = CellWatch(cell, traits_of(cell.vm))
            watch.set_if_worse(Verdict.HARNESS_ERROR, reason)
            bundles.write(watch, ())
            attach_cell(reports[-1], watch.as_record())
        for report in reports:
            self._replay(report)
        self._config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def lose_tests(
        self, items: Iterable[pytest.Item], reason: str, bundles: Bundles, traits_of: Callable[[str], dict[str, bool]]
    ) -> None:
        """Report tests as lost that no process can run."""
        for item in items:
            self._begin(item)
            self.lose_open_test(reason, bundles, traits_of)

    def _begin(self, item: pytest.Item) -> None:
        self._open, self._phase, self._passed, self.began_any = item.nodeid, "", True, True
        self.open_test_failed = False
        self._config.hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)

    def _report(self, fields: dict[str, Any]) -> None:
        report = self._config.hook.pytest_report_from_serializable(config=self._config, data=fields)
        if not isinstance(report, pytest.TestReport) or report.nodeid != self._open:
            return
        # JSON has no tuples, and pytest demands them.
        report.location = tuple(report.location)  # type: ignore[assignment]
        if isinstance(report.longrepr, list):
            report.longrepr = tuple(report.longrepr)
        report.sections = [(title, text) for title, text in report.sections]
        report.user_properties = [(name, value) for name, value in report.user_properties]
        self._replay(report)

    def _replay(self, report: pytest.TestReport) -> None:
        report.worker_id = self._lane  # type: ignore[attr-defined]
        self._phase, self._passed = str(report.when), report.passed
        self.open_test_failed |= report.failed
        cell = reported_cell(report)
        if cell:
            if cell.bundle and not (self._run_directory.path / cell.bundle).exists():
                taken = shard_files.take_bundle(self._run_directory, self._directory, cell.bundle)
                attach_cell(report, cell.model_copy(update={"bundle": taken}))
            identity = cell_of(self._items[report.nodeid])
            if identity and cell.mutant and cell.verdict in (Verdict.FAIL, Verdict.KNOWN_FAIL):
                self.survivors.append(identity)
            if identity and cell.mutant and cell.verdict is Verdict.SKIP and not identity.loader:
                self.skipped_mutants.append(identity)
        if report.when == "teardown":
            self._ended.add(report.nodeid)
            self._open, self.open_test_failed = "", False
        self._config.hook.pytest_runtest_logreport(report=report)

    def _warn(self, text: str, category: str, filename: str, lineno: int, nodeid: str) -> None:
        kind = getattr(builtins, category, None) or getattr(pytest, category, None)
        known = isinstance(kind, type) and issubclass(kind, Warning)
        shown = text if known else f"{category}: {text}"
        made = warnings.WarningMessage(
            UserWarning(shown), kind if known and isinstance(kind, type) else UserWarning, filename, lineno
        )
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": made, "when": "runtest", "nodeid": nodeid, "location": None}
        )


def _lost_report(item: pytest.Item, phase: _Phase, reason: str) -> pytest.TestReport:
    return _made(item, phase, "failed", f"{item.nodeid}\n{reason}")


def _empty_teardown(item: pytest.Item) -> pytest.TestReport:
    return _made(item, "teardown", "passed", None)


def _made(
    item: pytest.Item, phase: _Phase, outcome: Literal["passed", "failed"], text: str | None
) -> pytest.TestReport:
    now = time.time()
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=outcome,
        longrepr=text,
        when=phase,
        start=now,
        stop=now,
    )
