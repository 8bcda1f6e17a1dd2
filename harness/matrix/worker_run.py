"""The run in a pytest-xdist worker, which runs rows and owns their guests; the controller builds and writes results."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest

from harness.core import process
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.matrix import run_loop
from harness.matrix.cells.failure_bundles import Bundles
from harness.matrix.guests.fleet import Fleet
from harness.matrix.run import MatrixRun
from harness.matrix.workers import xdist_controller_and_worker
from harness.matrix.workers.controller_socket import ControllerClient
from harness.report.run_dir import RunDirectory


class WorkerRun(MatrixRun):
    """Runs rows for a controller, which receives the events of this process's bus."""

    def __init__(self, config: pytest.Config) -> None:
        """Raises UsageError for an unknown VM or a broken recipe."""
        # The controller's main thread starts the workers (execnet.gateway_io.Popen2IOMaster, 2.1).
        process.end_with_parent()
        super().__init__(config)
        self._worker_config = xdist_controller_and_worker.worker_config(config)

    @cached_property
    def directory(self) -> RunDirectory:
        """The controller's directory of results."""
        return RunDirectory(Path(self._worker_config.results_directory))

    @cached_property
    def vm_names_in_order(self) -> list[str]:
        """The rows in the controller's order."""
        return list(self._worker_config.vm_names_in_order)

    @cached_property
    def bundle_writer(self) -> Bundles:
        """The writer of the bundles of failed cells; a person cannot attach to a worker's guest."""
        return Bundles(self.directory, self._config)

    def _open_fleet(self) -> Fleet:
        """Create a fleet whose images the controller builds."""
        return Fleet(
            self.recipes.values(),
            build_context=BuildContext.in_cache(Bus()),
            bus=self.bus,
            directory=self.directory.path,
            suffix=xdist_controller_and_worker.console_log_suffix_in_worker(self._config),
            forced_accelerator=self._config.option.accel,
            kernel_mutant_number=self._config.option.kernel_mutant,
            await_image=self._controller.wait_until_image_is_built,
        )

    @cached_property
    def _controller(self) -> ControllerClient:
        """The connection to the controller, subscribed to this process's bus."""
        client = ControllerClient(
            self._worker_config.controller_address, xdist_controller_and_worker.name_of_this_worker(self._config)
        )
        self.bus.add_listener(client.send_event)
        return client

    def _cells_collected(self, _items: list[pytest.Item]) -> None:
        self._controller.send_rows_and_selected_cells(
            *run_loop.rows_to_run_and_compare(_items), self._asked, self._shard_record
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Stop the guests, then send this process's time accounts to the controller."""
        if self._fleet and exitstatus == pytest.ExitCode.INTERRUPTED:
            process.stop_all()
        self._close_fleet()
        xdist_controller_and_worker.send_time_account(self._config, self._phases.row_time_accounts)
