"""The run loop of a controller: cell shards run in other processes, and their reports are replayed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.matrix import run_loop
from harness.matrix.cell_shards import division, shard_files
from harness.matrix.cell_shards.division import CellShard
from harness.matrix.cell_shards.engine import ShardEnd, ShardEngine, ShardNeeds, needs_of_row
from harness.matrix.cell_shards.files_of_tests import FilesOfTests
from harness.matrix.cell_shards.local_processes import LocalProcesses
from harness.matrix.cell_shards.report_replay import ReportReplay
from harness.matrix.cell_shards.shard_order import ShardOrder

if TYPE_CHECKING:
    from harness.matrix.controller_run import ControllerRun

# How often the board is updated while no process sends anything.
_LOOK_SECONDS = 0.5
# A shard whose processes end before its next test has begun is given up after so many of them.
_MOST_LOST_STARTS = 2
# Options that pytest reads before it knows the others, or that only the controller has.
_OWN_OPTIONS = frozenset(
    (
        *("file_or_dir", "plugins", "override_ini", "inifilename", "rootdir", "confcutdir", "pyargs", "ignore"),
        *("ignore_glob", "last_failed_no_failures", "usepdb_cls", "version", "help"),
    )
)
# What the others are in the process of a shard, whatever the user's pytest.ini or PYTEST_ADDOPTS has.
_NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("keyword", "markexpr"), ""),
    **dict.fromkeys(("lf", "failedfirst", "newfirst", "cacheclear", "stepwise", "stepwise_skip"), False),
    **dict.fromkeys(("stepwise_reset", "collectonly", "usepdb", "trace"), False),
    **dict.fromkeys(("xmlpath", "ktap", "into", "at_failure", "shard", "log_file", "debug", "deselect"), None),
    **dict.fromkeys(("pinpoint_hosts", "scheduler", "scheduler_tls"), None),
    **dict.fromkeys(("cacheshow", "pastebin"), None),
    **{"maxfail": 0, "numprocesses": 0, "no_header": True, "no_summary": True},
}


def run(session: pytest.Session, controller: ControllerRun, processes: int) -> None:
    """Run the session's items in processes: at most `processes` of this host, or with --hosts or --scheduler of others.

    Raises what pytest's own loop raises, and HostError or UsageError if the cluster cannot be used.
    """
    if reporter := session.config.pluginmanager.getplugin("terminalreporter"):
        # Tests of several files end in turns.
        reporter.showfspath = False
    engine: ShardEngine = LocalProcesses(processes)
    if session.config.option.scheduler or session.config.option.pinpoint_hosts:
        # dask.distributed is imported only here.
        from harness.matrix.hosts import cluster_of_options

        engine = cluster_of_options.connect(session.config.option, controller)
    ShardedLoop(session, controller, engine, processes).run()


class ShardedLoop:
    """Starts the longest shard whose image is there, as soon as a process is free."""

    def __init__(self, session: pytest.Session, controller: ControllerRun, engine: ShardEngine, processes: int) -> None:
        self._session = session
        self._config = session.config
        self._controller = controller
        self._engine = engine
        self._files = FilesOfTests(session.config)
        self._waiting = division.divide(
            session.items, session.config.option.shards, processes, controller.past_durations
        )
        self._running: dict[str, tuple[CellShard, ReportReplay, Path]] = {}
        self._booting, self._compared = run_loop.rows_to_run_and_compare(session.items)

    def run(self) -> None:
        """Run all shards; however that ends, no process is left."""
        self._controller.fleet.start_building(self._booting, self._compared)
        try:
            while self._waiting or self._running:
                self._start_ready_shards()
                for name, update in self._engine.updates(_LOOK_SECONDS):
                    shard, replay, directory = self._running[name]
                    if isinstance(update, ShardEnd):
                        self._end(shard, replay, directory, update)
                    else:
                        replay.receive(update)
                    self._stop_if_asked()
                self._controller.print_new_board_lines()
        finally:
            for name in self._engine.stop():
                shard_files.take_files(self._controller.directory, self._running[name][2], keep_output=False)
            if removal := self._files.describe_removal():
                print(f"\npinpoint: {removal}", file=sys.stderr)

    def _stop_if_asked(self) -> None:
        """Raise if the run shall end, after -x for example, but not before the test that failed has ended."""
        if self._session.shouldfail and not any(replay.open_test_failed for _, replay, _ in self._running.values()):
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _start_ready_shards(self) -> None:
        """Start shards while there are lanes, the longest first. Give up those that no lane can ever run."""
        # Tests of the harness come first: they need no image.
        for shard in sorted(self._waiting, key=lambda each: (not each.vm, each.seconds), reverse=True):
            needs = self._needs(shard)
            if refusal := self._engine.refusal(needs):
                self._waiting.remove(shard)
                replay = self._replay(shard, "", self._controller.directory.path)
                replay.lose_tests(shard.items, refusal, self._controller.bundle_writer, self._controller.traits_of)
            elif self._is_ready(shard) and (lane := self._engine.lane_for(needs)):
                self._waiting.remove(shard)
                directory = shard_files.make_directory(self._controller.directory, shard.name)
                self._running[shard.name] = shard, self._replay(shard, lane, directory), directory
                self._engine.start(self._order(shard, lane, directory))

    def _replay(self, shard: CellShard, lane: str, directory: Path) -> ReportReplay:
        controller = self._controller
        add_spent = controller.add_time_accounts
        return ReportReplay(self._config, shard, lane, directory, controller.directory, controller.bus, add_spent)

    def _needs(self, shard: CellShard) -> ShardNeeds:
        recipe = self._controller.recipes.get(shard.vm)
        if recipe is None:
            return ShardNeeds("", 0.5, 0.5)
        return needs_of_row(recipe, self._config.option.accel)

    def _is_ready(self, shard: CellShard) -> bool:
        return all(map(self._controller.fleet.is_image_settled, self._images(shard)))

    def _images(self, shard: CellShard) -> list[str]:
        """Return the VMs whose images a shard needs."""
        if shard.vm not in self._booting:
            return []
        sibling = self._controller.recipes[shard.vm].kernel.sibling if shard.vm in self._compared else ""
        return [shard.vm, *filter(None, (sibling,))]

    def _end(self, shard: CellShard, replay: ReportReplay, directory: Path, end: ShardEnd) -> None:
        """Take over the files of an ended process. If it did not run all of its tests, the rest runs in another."""
        del self._running[shard.name]
        words = shard_files.last_words(directory)
        left = replay.items_not_begun
        complete = replay.open_item is None and not left
        shard_files.take_files(self._controller.directory, directory, keep_output=not complete)
        if complete:
            return
        reason = f"the process that ran it {end.how or 'ended'}{f': {words}' if words else ''}; see the host's own log"
        lost = self._controller.bundle_writer, self._controller.traits_of
        shard.survivors += replay.survivors
        shard.skipped_mutants += replay.skipped_mutants
        replay.lose_open_test(reason, *lost)
        shard.starts_lost = 0 if replay.began_any else shard.starts_lost + 1
        if shard.starts_lost >= _MOST_LOST_STARTS:
            replay.lose_tests(left, reason, *lost)
        elif left:
            seconds = shard.seconds * len(left) / len(shard.items)
            shard.items, shard.seconds, shard.attempt = left, seconds, shard.attempt + 1
            self._waiting.append(shard)

    def _order(self, shard: CellShard, lane: str, directory: Path) -> ShardOrder:
        option = self._config.option
        files = dict.fromkeys(str(item.path) for item in shard.items)
        plugins = dict.fromkeys([*option.plugins, "harness.plugin"])
        overrides = [*(option.override_ini or ())]
        settings = {name: value for name, value in vars(option).items() if name not in _OWN_OPTIONS}
        own = {**_NEUTRAL, "basetemp": str(self._files.path / shard.name)}
        own |= {"vm": [shard.vm], "test_cells": False} if shard.vm else {}
        return ShardOrder(
            name=shard.name,
            lane=lane,
            vm=shard.vm,
            node_ids=tuple(item.nodeid for item in shard.items),
            arguments=(
                *(("-c", str(self._config.inipath)) if self._config.inipath else ()),
                *("--rootdir", str(self._config.rootpath)),
                *(word for name in plugins for word in ("-p", name)),
                *(word for setting in overrides for word in ("-o", setting)),
                *files,
            ),
            options={**_serializable(settings), **own},
            directory=str(directory),
            results_directory=str(self._controller.directory.path),
            console_suffix=shard.console_suffix,
            images=tuple(self._images(shard)),
            image_errors={
                name: error for name in self._images(shard) if (error := self._controller.fleet.image_error(name))
            },
            freeze_failures={
                name: failure
                for name, failure in self._controller.fleet.freeze_failures.items()
                if name in self._images(shard)
            },
            survivors=tuple(shard.survivors),
            skipped_mutants=tuple(shard.skipped_mutants),
        )


def _serializable(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that JSON can carry; others are objects of plugins."""

    def carried(value: Any) -> bool:  # noqa: ANN401 - an option has any type
        try:
            return bool(json.loads(json.dumps(value)) == value)
        except (TypeError, ValueError):
            return False

    return {name: value for name, value in options.items() if carried(value)}
