"""One run of the matrix: what was asked for, where its results go, and what it ends with."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from harness.core import deadline, paths, process
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.recipe import select
from harness.matrix import run_loop
from harness.matrix.cells.cell_result import CellWatch
from harness.matrix.cells.failure_bundles import Bundles
from harness.matrix.cells.selection import CellId, cell_of
from harness.matrix.commands import replay_options
from harness.matrix.commands.attach import GuestAttacher
from harness.matrix.ending import count_cells, count_false_alarms, count_mutants, status
from harness.matrix.guests.fleet import Fleet
from harness.matrix.phases import Phases
from harness.matrix.row_order import in_order
from harness.matrix.workers import controller, xdist_worker
from harness.report import board, bundle, durations
from harness.report.board import Board
from harness.report.html import write_html
from harness.report.measurements import Figures
from harness.report.record import Cell, Results
from harness.report.relocation_table import Trials
from harness.report.run_dir import RunDirectory
from harness.report.summary import write_summary
from harness.verdict.verdict import Verdict


def _durations() -> Path:
    return paths.cache() / "durations.json"


class MatrixRun:
    """Holds what a session needs; registered as a plugin of its own for the hooks that end it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = deadline.launched_at()
        self.recipes = {recipe.name: recipe for recipe in select(config.option.vm)}
        self.bus = Bus()
        self._phases = Phases(config, self.bus, self._began)
        self._asked: dict[str, CellId] = {}
        self._cells: list[Cell] = []
        self._survivors: defaultdict[tuple[str, str], list[CellId]] = defaultdict(list)
        if not self._is_worker:
            replay_options.settle_seed(config)
        if self._wants_cells and not config.option.xmlpath:
            config.option.xmlpath = str(self.directory.junit)

    @cached_property
    def directory(self) -> RunDirectory:
        """Where this run's results go."""
        if self._is_worker:
            return RunDirectory(Path(xdist_worker.worker_config(self._config).directory))
        into = self._config.option.into
        return RunDirectory.create(Path(into) if into else paths.results())

    @cached_property
    def fleet(self) -> Fleet:
        """The rows' images and guests."""
        controller = self._foreman if self._is_worker else None
        return Fleet(
            self.recipes.values(),
            build_context=BuildContext.in_cache(Bus() if controller else self.bus),
            bus=self.bus,
            directory=self.directory.path,
            suffix=xdist_worker.suffix(self._config),
            forced_accelerator=self._config.option.accel,
            **({"await_image": controller.await_image} if controller else {}),
        )

    @cached_property
    def rows(self) -> list[str]:
        """The names of the VMs asked for, in the order their rows begin."""
        if self._is_worker:
            return list(xdist_worker.worker_config(self._config).rows)
        return in_order(self.recipes.values(), BuildContext.in_cache(Bus()), durations.of_rows(_durations()))

    @cached_property
    def _foreman(self) -> controller.ControllerClient:
        """In a worker: the way to the controller, which hears from now on what this process's bus carries."""
        way = controller.ControllerClient(xdist_worker.worker_config(self._config).foreman)
        self.bus.subscribe(way.hear)
        return way

    @cached_property
    def leader(self) -> controller.Controller:
        """In the controller: who builds for the workers."""
        return controller.Controller(self.bus, self.fleet.build, self.fleet.image)

    @cached_property
    def figures(self) -> Figures:
        """Every figure that a case or the run measured."""
        return Figures(self.directory)

    @cached_property
    def trials(self) -> Trials:
        """The trial table of relocation by hand."""
        return Trials(self.directory, self.figures)

    @cached_property
    def bundles(self) -> Bundles:
        """What is left of each cell that does not hold."""
        hands = (
            GuestAttacher(self._config.option.at_failure, self._board.close) if self._config.option.at_failure else None
        )
        return Bundles(self.directory, self._config, hands)

    @cached_property
    def _results(self) -> Results:
        return Results(self.directory)

    @cached_property
    def _board(self) -> Board:
        """The board, printing through pytest's own reporter so that neither breaks the other's lines."""
        return board.board(self._config.pluginmanager.getplugin("terminalreporter"), self.bus)

    def speak(self) -> None:
        """Let the board print what happened since: called where nothing else prints."""
        self._board.flush()

    def collected(self, items: list[pytest.Item]) -> None:
        """Remember the cells asked for; each must end with a verdict. From now on the board hears the bus."""
        self._asked = {item.nodeid: cell for item in items if (cell := cell_of(item))}
        if not self._asked:
            return
        if self._is_worker:
            self._foreman.tell_rows(*run_loop.wanted(items), self._asked)
        else:
            self._board.flush()

    def survivors(self, watch: CellWatch) -> list[CellId]:
        """The mutants of an honest cell's case that survived on its VM: for each of them it cannot be green."""
        return [] if watch.identity.mutant else self._survivors[watch.identity.case, watch.identity.vm]

    def ended(self, watch: CellWatch) -> None:
        """A mutant that was not caught, or for the wrong reason, leaves its honest cell without proof."""
        mutant = watch.identity.mutant and not self._config.option.as_honest
        if mutant and watch.verdict is Verdict.FAIL:
            self._survivors[watch.identity.case, watch.identity.vm].append(watch.identity)
        self.bundles.write(watch, self.survivors(watch))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write each cell as it ends. With pytest-xdist only the controller, which has no worker's input, writes."""
        kept = getattr(report, "pinpoint_cell", None)
        if kept is None or self._is_worker:
            return
        cell = Cell(**kept)
        self._results.write(cell)
        if cell.verdict is not Verdict.SKIP and all(earlier.verdict is Verdict.SKIP for earlier in self._cells):
            self._measure("run.first_verdict_s", "at most 180")
        self._cells.append(cell)
        self._board.count(cell)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, Any]:
        """In pytest-xdist's controller, which runs nothing itself, the board speaks while the workers run."""
        with (
            xdist_worker.board_updates(self._config, self.speak)
            if xdist_worker.is_controller(self._config)
            else nullcontext()
        ):
            return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - a class that pytest-xdist does not export
        """Before a worker starts: lend it what all share."""
        grouped = self._config.option.dist == "loadgroup"
        where, parts, seconds = str(self.directory.path), self._config.option.shards, durations.of_cells(_durations())
        xdist_worker.send_config(
            node, xdist_worker.WorkerConfig(where, self.rows, self.leader.address, grouped, parts, seconds)
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop the guests, write what the run measured, and turn pytest's exit status into ours."""
        if "leader" in self.__dict__:
            self.leader.close()
            self._asked |= self.leader.asked
        if "fleet" in self.__dict__:
            if exitstatus == pytest.ExitCode.INTERRUPTED:
                process.stop_all()
            self.fleet.close()
        if "_board" in self.__dict__:
            self._board.close()
        if self._is_worker:
            return
        if "directory" in self.__dict__:
            self._results.close()
        if not self._asked:
            return
        self._measure("run.wall_s", "at most 1500 with empty caches, 180 after")
        if not self._config.option.as_honest:
            count_mutants(self.figures, self._cells)
        durations.remember(_durations(), self._cells)
        self._phases.keep(self.figures)
        count_cells(self.figures, self._cells, self._missing())
        count_false_alarms(self.figures, self.directory, self.recipes, self._cells)
        write_html(self.directory, self._missing())
        session.exitstatus = status(exitstatus, self._cells, complete=not self._missing())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Case by VM, each failure with the command that runs it again, and what was asked for and did not run."""
        if self._asked and not self._is_worker:
            color = terminalreporter._tw.hasmarkup
            write_summary(
                terminalreporter.write_line,
                self._cells,
                self._replays(),
                self._missing(),
                trials=self.trials.read(),
                color=color,
            )
            terminalreporter.write_line(f"results: {self.directory.path}")

    @property
    def _is_worker(self) -> bool:
        return xdist_worker.is_worker(self._config)

    @property
    def _wants_cells(self) -> bool:
        """True when this session will run cases, so that it needs a place for results before pytest collects."""
        named = [Path(word.partition("::")[0]).resolve() for word in self._config.args]
        own = all(path.is_relative_to(paths.PROJECT / "tests") for path in named)
        return not (own or self._config.option.collectonly or self._is_worker)

    def _missing(self) -> list[CellId]:
        """Cells that were asked for and have no verdict."""
        ran = {(cell.case, cell.vm, cell.mutant) for cell in self._cells}
        return [cell for cell in self._asked.values() if (cell.case, cell.vm, cell.mutant) not in ran]

    def _replays(self) -> dict[tuple[str, str, str], str]:
        """The command that runs each cell again: from its bundle where it left one."""
        left = {
            (cell.case, cell.vm, cell.mutant): bundle.command(self.directory.path / cell.bundle)
            for cell in self._cells
            if cell.bundle
        }
        return {(cell.case, cell.vm, cell.mutant): cell.replay for cell in self._asked.values()} | left

    def _measure(self, figure: str, goal: str) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        self.figures.add(figure, seconds, "s", goal=goal)
