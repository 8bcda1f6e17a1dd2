"""One process of a matrix run: the cells that it runs, the guests that it owns, and where its results go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import suppress
from functools import cached_property

import pytest

from harness.core import deadline, process
from harness.core.events import Bus
from harness.images.vm_recipe import select, with_debug_symbols
from harness.matrix.cells.cell_phases_and_verdict import CellWatch
from harness.matrix.cells.failure_bundles import Bundles
from harness.matrix.cells.selection import CellId, cell_of
from harness.matrix.guests.fleet import Fleet
from harness.matrix.run_phase_times import PhaseTimeRecorder
from harness.matrix.shard import Shard
from harness.report.metrics_with_goals import Figures
from harness.report.record import CellKey
from harness.report.relocation_by_hand_table import Trials
from harness.report.run_dir import RunDirectory
from harness.report.shard_file import ShardRecord
from harness.verdict.cell_verdict_enum import Verdict


class MatrixRun(ABC):
    """The common part of ControllerRun and ShardRun; registered as a pytest plugin."""

    def __init__(self, config: pytest.Config) -> None:
        """Raises UsageError for an unknown VM, a broken recipe or a wrong --shard."""
        self._config = config
        self._began = deadline.launched_at()
        chosen = select(config.option.vm, test_cells=config.option.test_cells)
        if config.option.debug_symbols:
            chosen = [with_debug_symbols(recipe) for recipe in chosen]
        self.recipes = {recipe.name: recipe for recipe in chosen}
        self.bus = Bus()
        self._phases = PhaseTimeRecorder(config, self.bus, self._began)
        self.shard = Shard.parse(config.option.shard) if config.option.shard else None
        self._shard_record: ShardRecord | None = None
        self._asked: dict[str, CellId] = {}
        self._survivors: defaultdict[CellKey, list[CellId]] = defaultdict(list)
        self._skipped_mutants: defaultdict[CellKey, list[CellId]] = defaultdict(list)
        self._fleet: Fleet | None = None

    @property
    @abstractmethod
    def directory(self) -> RunDirectory:
        """The directory of this run's results."""

    @property
    @abstractmethod
    def vm_names_in_order(self) -> list[str]:
        """The names of the selected VMs, in the order in which their rows begin."""

    @property
    @abstractmethod
    def bundle_writer(self) -> Bundles:
        """The writer of the bundles of failed cells."""

    @property
    def fleet(self) -> Fleet:
        """The images and guests of this process, created at first use."""
        if self._fleet is None:
            self._fleet = self._open_fleet()
        return self._fleet

    @cached_property
    def figures(self) -> Figures:
        """All figures that cases or the run measured."""
        return Figures(self.directory)

    @cached_property
    def trial_table(self) -> Trials:
        """The trial table of relocation by hand."""
        return Trials(self.directory, self.figures)

    def record_selected_cells(self, items: list[pytest.Item]) -> None:
        """Record the selected cells; each must end with a verdict."""
        self._asked = {item.nodeid: cell for item in items if (cell := cell_of(item))}

    @abstractmethod
    def leave_out_items(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the collected items that are left for -k and for other plugins to select from."""

    @abstractmethod
    def select_items(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return those of the items left that this process is to run, or is to have run."""

    def keep_own_shard(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Return the selected items that --shard leaves to this run, and keep the record of all shards."""
        assert self.shard is not None
        own, self._shard_record = self.shard.keep_own_items(items)
        return own

    def mutants_surviving_cell(self, watch: CellWatch) -> list[CellId]:
        """Return the mutants that survived an honest cell's case on its VM; if there are any, the cell fails.

        A mutant that was skipped survived a case that was not: nothing shows that the case detects it.
        """
        if watch.identity.mutant:
            return []
        key = watch.identity.key._replace(mutant="")
        skipped = [] if watch.verdict is Verdict.SKIP else self._skipped_mutants[key]
        return [*self._survivors[key], *skipped]

    def record_survivor_and_write_bundle(self, watch: CellWatch) -> None:
        """Record a mutant that survived, or that was caught for the wrong reason; write a failed cell's bundle."""
        mutant = watch.identity.mutant and not self._config.option.as_honest
        if mutant and watch.verdict in (Verdict.FAIL, Verdict.KNOWN_FAIL):
            self._survivors[watch.identity.key._replace(mutant="")].append(watch.identity)
        # With a loader of the user's own, the mutants of ours are left out, and their cases run.
        if mutant and watch.verdict is Verdict.SKIP and not watch.identity.loader:
            self._skipped_mutants[watch.identity.key._replace(mutant="")].append(watch.identity)
        self.bundle_writer.write(watch, self.mutants_surviving_cell(watch))

    @abstractmethod
    def _open_fleet(self) -> Fleet:
        """Create this process's fleet."""

    def _stop_interrupted_cell(self, session: pytest.Session) -> None:
        """End all children of an interrupted run with guests, and then the fixtures of the cell that was open.

        These would fail, because their guests are gone; the run is reported as interrupted.
        """
        if self._fleet:
            process.stop_all()
            with suppress(Exception, BaseExceptionGroup):
                session._setupstate.teardown_exact(None)

    def _close_fleet(self) -> None:
        """Stop this process's guests, if it has any."""
        if self._fleet:
            self._fleet.close()
