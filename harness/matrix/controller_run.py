"""The run in the process that writes results: the only process, or the controller of several."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.events import Bus
from harness.images import rootfs
from harness.images.build_context import BuildContext
from harness.matrix.cell_shards.division import TestDurations
from harness.matrix.cell_shards.process_count import process_count
from harness.matrix.cells import selection
from harness.matrix.cells.cell_record_on_pytest_report import reported_cell
from harness.matrix.cells.failure_bundles import Bundles
from harness.matrix.cells.selection import CellId
from harness.matrix.commands import replay_options
from harness.matrix.commands.attach_shell_or_gdb import FailedGuestAttacher
from harness.matrix.exit_status_and_counts import (
    exit_status,
    record_cell_figures,
    record_false_complaint_figures,
    record_foreign_probe_figures,
    record_mutant_figures,
)
from harness.matrix.guests.fleet import Fleet
from harness.matrix.run import MatrixRun
from harness.matrix.vm_order_and_row_division import names_in_start_order
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.report import bundle, cell_duration_cache, live_or_plain_progress_board
from harness.report.build_durations import BuildDurations
from harness.report.export import ktap
from harness.report.html import write_report_of_run
from harness.report.live_or_plain_progress_board import Board
from harness.report.mutants_caught_by_one_witness import record_only_killer_figures
from harness.report.record import Cell, CellKey, Results
from harness.report.run_dir import RunDirectory
from harness.report.shard_file import write_shard_record
from harness.report.summary import write_summary
from harness.report.time_accounts import Spent
from harness.report.timeline import Timeline
from harness.verdict.cell_verdict_enum import Verdict


def _durations() -> Path:
    return paths.cache() / "durations.json"


def _build_durations() -> Path:
    return paths.cache() / "build-durations.json"


class ControllerRun(MatrixRun):
    """Writes results, shows the board and sets the exit status; builds the images of all processes.

    The directory, the fleet and the board are created at first use, because some sessions need none.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Raises UsageError for an unknown VM or a broken recipe."""
        super().__init__(config)
        self._cells: list[Cell] = []
        self._directory: RunDirectory | None = None
        self._opened_board: Board | None = None
        self._test_durations = TestDurations()
        self._timeline = Timeline(self.bus, self._began)
        self.build_durations = BuildDurations(_build_durations(), self.bus)
        self._ktap = ktap.KtapCaseStream.open_file(config.option.ktap) if config.option.ktap else None
        replay_options.draw_seed_unless_set(config)
        if config.option.loader:
            self._check_loader(config)
        if self._wants_cells and not config.option.xmlpath:
            config.option.xmlpath = str(self.directory.pytest_junit_file)

    def _check_loader(self, config: pytest.Config) -> None:
        """Check that every VM can run the command of --loader, and give it to other processes with an absolute path."""
        command, context = (
            ForeignLoaderProgramAndArguments.parse_command_line(config.option.loader),
            BuildContext.in_cache(Bus()),
        )
        for recipe in self.recipes.values():
            command.demand_runs_on_vm(recipe, lambda each: rootfs.obtain_userland(each, context).path / "root")
        config.option.loader = command.loader_option_value

    @property
    def directory(self) -> RunDirectory:
        """The directory of this run's results, created at first use."""
        if self._directory is None:
            into = self._config.option.into
            self._directory = RunDirectory.create(Path(into) if into else paths.results())
        return self._directory

    @property
    def loader(self) -> str | None:
        """The command of --loader."""
        command: str | None = self._config.option.loader
        return command

    @property
    def forced_accelerator(self) -> str | None:
        """The accelerator of --accel."""
        name: str | None = self._config.option.accel
        return name

    @property
    def has_directory(self) -> bool:
        """True when this run has a directory; `directory` would create one."""
        return self._directory is not None

    @property
    def selected_keys(self) -> set[CellKey]:
        """The keys of all selected cells."""
        return {cell.key for cell in self._asked.values()}

    @cached_property
    def vm_names_in_order(self) -> list[str]:
        """The names of the selected VMs, in the order in which their rows begin."""
        return names_in_start_order(
            self.recipes.values(),
            BuildContext.in_cache(Bus()),
            cell_duration_cache.seconds_by_vm(_durations()),
            cell_duration_cache.seconds_by_vm(_build_durations()),
        )

    @cached_property
    def bundle_writer(self) -> Bundles:
        """The writer of the bundles of failed cells; with --at-failure a person attaches to the first failed guest."""
        way = self._config.option.at_failure
        return Bundles(self.directory, self._config, FailedGuestAttacher(way, self._board.close) if way else None)

    @cached_property
    def past_durations(self) -> Mapping[str, Mapping[str, float]]:
        """Past durations in seconds, by VM and cell; those of tests that are no cells are under an empty name."""
        return cell_duration_cache.seconds_by_vm_and_cell(_durations())

    def traits_of(self, vm: str) -> dict[str, bool]:
        """Return the traits of a VM by its recipe, for the record of a cell that was lost."""
        return self.recipes[vm].traits.model_dump()

    def add_time_accounts(self, spent: Spent) -> None:
        """Add the time accounts of another process."""
        self._phases.add_accounts(spent)

    def leave_out_items(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the collected items without those that the options leave out."""
        option = self._config.option
        by_id = any("::" in word for word in self._config.args)
        left = selection.left_out_markers(option, named=bool(option.keyword) or by_id)
        kept = items
        if option.test_cells:
            kept = selection.without_cells_outside_test_cells(kept, self.recipes.values(), complete=not by_id)
        kept = selection.without_optional_cells(kept, left)
        if "deep" in left:
            kept = selection.without_repeated_mutants(kept)
        return selection.tests_and_loader_cells(kept) if option.loader else kept

    def select_items(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the items; with --shard, only the share of this run."""
        return self.keep_own_shard(items) if self.shard else list(items)

    @cached_property
    def _results(self) -> Results:
        return Results(self.directory)

    @property
    def _board(self) -> Board:
        """The board, which prints through pytest's own reporter so that neither breaks the other's lines."""
        if self._opened_board is None:
            self._opened_board = live_or_plain_progress_board.make_board_for_pytest(
                self._config.pluginmanager.getplugin("terminalreporter"), self.bus
            )
        return self._opened_board

    def print_new_board_lines(self) -> None:
        """Print what happened since the last call; called only where nothing else prints."""
        self._board.print_new_steps_as_plain_lines()

    def _open_fleet(self) -> Fleet:
        """Create a fleet whose images this process builds."""
        return Fleet(
            self.recipes.values(),
            build_context=BuildContext.in_cache(self.bus),
            bus=self.bus,
            directory=self.directory.path,
            forced_accelerator=self.forced_accelerator,
            kernel_mutant_number=self._config.option.kernel_mutant,
        )

    def record_selected_cells(self, items: list[pytest.Item]) -> None:
        """Record the selected cells, and open the board, which shows the events of the bus from now on."""
        super().record_selected_cells(items)
        if self._asked:
            self._board.set_expected_cells(Counter(cell.vm for cell in self._asked.values()))
            self._board.print_new_steps_as_plain_lines()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write each cell when it ends, whichever process it ran in."""
        if report.when == "setup":
            self._timeline.begin_cell(report.nodeid, report.start)
        cell = reported_cell(report)
        if cell is None:
            if report.nodeid not in self._asked:
                self._test_durations.add_phase(report)
            return
        self._timeline.end_cell(report.nodeid, report.stop, cell, getattr(report, "worker_id", ""))
        self._results.write(cell)
        if cell.verdict is not Verdict.SKIP and all(earlier.verdict is Verdict.SKIP for earlier in self._cells):
            self._measure("run.first_verdict_s", "at most 180")
        self._cells.append(cell)
        self._board.count_finished_cell(cell)
        if self._ktap:
            self._ktap.write_plan(list(self._asked.values()))
            self._ktap.add_cell_to_test(cell)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop the guests, write the run's figures and report, and turn pytest's exit status into ours."""
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self._stop_interrupted_cell(session)
        self._close()
        if process_count(self._config):
            cell_duration_cache.save_test_seconds(_durations(), self._test_durations.mean_by_file())
        if not self._asked:
            return
        if self._ktap:
            self._ktap.write_plan(list(self._asked.values()))
            self._ktap.write_incomplete_tests()
        self._measure("run.wall_s", "at most 1500 with empty caches, 180 after")
        if not self._config.option.as_honest:
            record_mutant_figures(self.figures, self._cells)
            record_only_killer_figures(self.figures, self._cells)
            record_foreign_probe_figures(self.figures, self._cells)
        cell_duration_cache.save_seconds(_durations(), self._cells)
        self.build_durations.save()
        self._phases.record_figures(self.figures)
        record_cell_figures(self.figures, self._cells, self._missing())
        record_false_complaint_figures(self.figures, self.directory, self.recipes, self._cells)
        self._timeline.write_spans(self.directory)
        write_report_of_run(self.directory, self._missing())
        if self._shard_record:
            write_shard_record(self.directory, self._shard_record)
        session.exitstatus = exit_status(exitstatus, self._cells, complete=not self._missing())

    def _close(self) -> None:
        """Close what was opened."""
        self._close_fleet()
        if self._opened_board:
            self._opened_board.close()
        if self._directory:
            self._results.free_reserved_space()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of cases by VM, each failure with its replay command, and the cells that did not run."""
        if self._asked:
            write_summary(
                terminalreporter.write_line,
                self._cells,
                self._replays(),
                self._missing(),
                trials=self.trial_table.read(),
                color=terminalreporter._tw.hasmarkup,
            )
            terminalreporter.write_line(f"results: {self.directory.path}")

    @property
    def _wants_cells(self) -> bool:
        """True if this session will run cases, so that it needs a directory for results before pytest collects."""
        named = [Path(word.partition("::")[0]).resolve() for word in self._config.args]
        own = all(path.is_relative_to(paths.PROJECT / "tests") for path in named)
        return not (own or self._config.option.collectonly)

    def _missing(self) -> list[CellId]:
        """Return the selected cells without a verdict."""
        ran = {cell.key for cell in self._cells}
        return [cell for cell in self._asked.values() if cell.key not in ran]

    def _replays(self) -> dict[CellKey, str]:
        """Return the command that runs each cell again: the replay of its bundle, if it has one."""
        left = {cell.key: bundle.command(self.directory.path / cell.bundle) for cell in self._cells if cell.bundle}
        return {cell.key: cell.replay for cell in self._asked.values()} | left

    def _measure(self, figure: str, goal: str) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        self.figures.add(figure, seconds, "s", goal=goal)
