"""The pytest plugin: the options and hooks of the matrix. Decisions are made in harness/matrix."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.core import own_tree, private_files
from harness.core.errors import PinpointError, UsageError
from harness.matrix import conftest_files, run_loop
from harness.matrix.cell_shards import process_count, run_loop_of_shards
from harness.matrix.cell_shards.shard_process import ShardReporter
from harness.matrix.cells import cell_phases_and_verdict, selection, strip_report_control_codes
from harness.matrix.cells.cell_record_on_pytest_report import attach_cell
from harness.matrix.controller_run import ControllerRun
from harness.matrix.one_line_internal_error import OneLineInternalErrors
from harness.matrix.results_unwritable import StopOnUnwritableResults
from harness.matrix.run import MatrixRun
from harness.matrix.shard_run import ShardRun
from harness.report import time_accounts
from harness.run_options import OPTIONS

pytest_plugins = ("harness.fixtures", "harness.build_module_fixture", "harness.judge_injected_fault_fixture")

RUN = pytest.StashKey[MatrixRun]()
WATCH = pytest.StashKey[cell_phases_and_verdict.CellWatch]()
# The names of pytest's phases in the time accounts.
_PARTS = {"setup": time_accounts.FIXTURES, "call": time_accounts.BODY, "teardown": time_accounts.ENDING}


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add each option that changes a run; `./pinpoint run --help` prints them from here."""
    conftest_files.leave_out_above_own_tree(pluginmanager)
    group = parser.getgroup("pinpoint", "options of the matrix")
    process_count.add_option(group, pluginmanager)
    for name, settings in OPTIONS.items():
        group.addoption(name, **settings)
    tests = parser.getgroup("pinpoint-tests", "options of the project's own tests")
    tests.addoption("--fuzz", type=int, default=50, metavar="N", help="inputs that each fuzz test makes")
    tests.addoption(
        "--pictures", default=None, metavar="DIR", help="keep the pictures of report.html that a test takes"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the recipes; a broken recipe ends the run before anything is built."""
    private_files.keep_files_private()
    process_count.demand_own_processes(config)
    for marker in selection.MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        if config.option.project:
            own_tree.use_own_tree(Path(config.option.project))
        reporter = ShardReporter.of(config)
        run: MatrixRun = ShardRun(config, reporter) if reporter else ControllerRun(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    except PinpointError as error:
        # A failure of the host, such as results that cannot be written, is not wrong use.
        pytest.exit(str(error), returncode=error.exit_status)
    config.stash[RUN] = run
    config.pluginmanager.register(run, "pinpoint-run")
    config.pluginmanager.register(OneLineInternalErrors(), "pinpoint-internal-errors")
    config.pluginmanager.register(StopOnUnwritableResults(), "pinpoint-unwritten")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Name a case file of the own tree by its path from the root directory: two files must not share their node ids.

    pytest names a file outside of its root directory relative to the argument that it was found in.
    """
    root = parent.config.rootpath
    if module_path.is_relative_to(root):
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=os.path.relpath(module_path, root))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each case that uses `vm`: one cell for each VM and mutant."""
    selection.parametrize_by_vm_and_mutant(metafunc, list(metafunc.config.stash[RUN].recipes))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Leave out items before -k and other plugins see them; then select, skip cells without a trait, order by row."""
    run = config.stash[RUN]
    collected = list(items)
    items[:] = run.leave_out_items(items)
    _deselect(config, collected, items)
    yield
    selected = run.select_items(items)
    _deselect(config, items, selected)
    if config.option.loader:
        selection.skip_cells_needing_own_loader(selected)
    selection.skip_cells_without_traits(selected, run.recipes)
    items[:] = selection.sorted_by_row(selected, run.vm_names_in_order)


def _deselect(config: pytest.Config, before: list[pytest.Item], after: list[pytest.Item]) -> None:
    """Report the items that are not left to pytest, which counts them."""
    kept = set(after)
    config.hook.pytest_deselected(items=[item for item in before if item not in kept])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run rows as they become ready, here or in other processes. For --collect-only pytest's own loop runs."""
    config = session.config
    if config.option.collectonly or session.testsfailed:
        return None
    run = config.stash[RUN]
    run.record_selected_cells(session.items)
    if isinstance(run, ControllerRun):
        if processes := process_count.process_count(config):
            run_loop_of_shards.run(session, run, processes)
        else:
            run_loop.run(session, run.fleet, run.print_new_board_lines)
    else:
        run_loop.run(session, run.fleet, lambda: None)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Create the watch of each cell; retire the row's guest after its last cell."""
    cell = selection.cell_of(item)
    if cell is None:
        return (yield)
    run = item.config.stash[RUN]
    item.stash[WATCH] = cell_phases_and_verdict.CellWatch(cell, run.recipes[cell.vm].traits.model_dump())
    result = yield
    if nextitem is None or selection.vm_of(nextitem) != cell.vm:
        run.fleet.retire(cell.vm)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Invert the result of a mutant's cell: it holds if the case caught the mutant."""
    watch = item.stash.get(WATCH, None)
    if watch is None or not watch.identity.mutant or item.config.option.as_honest:
        return (yield)
    try:
        yield
    except Exception as error:
        cell_phases_and_verdict.demand_caught(watch, error)
        return None
    return cell_phases_and_verdict.demand_caught(watch, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge each phase's error; attach the record of the finished cell to its last report."""
    report = yield
    watch = item.stash.get(WATCH, None)
    if watch is None:
        return report
    run = item.config.stash[RUN]
    run.bus.record_seconds(watch.identity.vm, _PARTS[call.when], call.duration)
    if call.excinfo is not None:
        watch.judge(call.excinfo.value)
        if isinstance(call.excinfo.value, cell_phases_and_verdict.REPORTED_PLAINLY):
            report.longrepr = f"{item.nodeid}\n{call.excinfo.value}"
    strip_report_control_codes.strip_control_codes_in_place(report)
    if call.excinfo is not None:
        run.bundle_writer.gather_evidence(watch, call.excinfo.value, report.longreprtext)
    if report.when == "teardown":
        survived = cell_phases_and_verdict.fail_cell_if_mutants_survived(watch, run.mutants_surviving_cell(watch))
        if survived and report.outcome == "passed":
            report.outcome, report.longrepr = "failed", survived
        run.record_survivor_and_write_bundle(watch)
        attach_cell(report, watch.as_record())
        watch.drop_references()
    return report
