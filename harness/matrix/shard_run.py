"""The run in the process of a cell shard, which owns the shard's guests; the controller builds and writes results."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest

from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.matrix.cell_shards.shard_process import ShardReporter
from harness.matrix.cells.failure_bundles import Bundles
from harness.matrix.guests.fleet import Fleet
from harness.matrix.run import MatrixRun
from harness.report.run_dir import RunDirectory


class ShardRun(MatrixRun):
    """Runs the tests of an order; the controller receives the events of this process's bus."""

    def __init__(self, config: pytest.Config, reporter: ShardReporter) -> None:
        """Raises UsageError for an unknown VM or a broken recipe."""
        super().__init__(config)
        self._reporter = reporter
        self._order = reporter.order
        self.bus.add_listener(reporter.send_event)
        for mutant in self._order.survivors:
            self._survivors[mutant.key._replace(mutant="")].append(mutant)
        for mutant in self._order.skipped_mutants:
            self._skipped_mutants[mutant.key._replace(mutant="")].append(mutant)

    @cached_property
    def directory(self) -> RunDirectory:
        """The directory of this shard, whose files the controller takes over."""
        return RunDirectory(Path(self._order.directory))

    @property
    def run_directory(self) -> RunDirectory:
        """The controller's directory of results, which this process only reads."""
        return RunDirectory(Path(self._order.results_directory))

    @cached_property
    def vm_names_in_order(self) -> list[str]:
        """The one row of this shard."""
        return [self._order.vm] if self._order.vm else []

    @cached_property
    def bundle_writer(self) -> Bundles:
        """The writer of the bundles of failed cells; a person cannot attach to the guest of a shard."""
        return Bundles(self.directory, self._config, final_directory=Path(self._order.results_directory))

    def leave_out_items(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the items of the order."""
        return self._reporter.own_items(items)

    def select_items(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the items of the order, in its order; the controller has selected them."""
        return self._reporter.own_items(items)

    def _open_fleet(self) -> Fleet:
        """Create a fleet whose images the controller has built."""
        return Fleet(
            self.recipes.values(),
            build_context=BuildContext.in_cache(Bus()),
            bus=self.bus,
            directory=self.directory.path,
            suffix=self._order.console_suffix,
            forced_accelerator=self._config.option.accel,
            kernel_mutant_number=self._config.option.kernel_mutant,
            image_errors=self._order.image_errors,
            freeze_failures=self._order.freeze_failures,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop the guests, then send this process's time accounts to the controller."""
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self._stop_interrupted_cell(session)
        self._close_fleet()
        self._reporter.send({"spent": self._phases.row_time_accounts})
