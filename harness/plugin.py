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
from harness.matrix.cells import cell_phases_and_verdict, selection, strip_report_control_codes
from harness.matrix.cells.cell_record_on_pytest_report import attach_cell
from harness.matrix.controller_run import ControllerRun
from harness.matrix.one_line_internal_error import OneLineInternalErrors
from harness.matrix.results_unwritable import StopOnUnwritableResults
from harness.matrix.run import MatrixRun
from harness.matrix.worker_run import WorkerRun
from harness.matrix.workers import xdist_controller_and_worker
from harness.matrix.workers.worker_crash import WorkerCrashes
from harness.report import time_accounts
from harness.run_options import OPTIONS

pytest_plugins = ("harness.fixtures", "harness.judge_injected_fault_fixture")

RUN = pytest.StashKey[MatrixRun]()
WATCH = pytest.StashKey[cell_phases_and_verdict.CellWatch]()
# The names of pytest's phases in the time accounts.
_PARTS = {"setup": time_accounts.FIXTURES, "call": time_accounts.BODY, "teardown": time_accounts.ENDING}


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add each option that changes a run; `./pinpoint run --help` prints them from here."""
    conftest_files.leave_out_above_own_tree(pluginmanager)
    group = parser.getgroup("pinpoint", "options of the matrix")
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
    for marker in selection.MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        if config.option.project:
            own_tree.use_own_tree(Path(config.option.project))
        run: MatrixRun = WorkerRun(config) if xdist_controller_and_worker.is_worker(config) else ControllerRun(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    except PinpointError as error:
        # A failure of the host, such as results that cannot be written, is not wrong use.
        pytest.exit(str(error), returncode=error.exit_status)
    config.stash[RUN] = run
    config.pluginmanager.register(run, "pinpoint-run")
    config.pluginmanager.register(OneLineInternalErrors(), "pinpoint-internal-errors")
    config.pluginmanager.register(StopOnUnwritableResults(), "pinpoint-unwritten")
    if isinstance(run, ControllerRun):
        config.pluginmanager.register(WorkerCrashes(run), "pinpoint-crashes")
    xdist_controller_and_worker.keep_rows_together(config)


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
    """Leave out cells and divide rows before -k and pytest-xdist see the items; then order them, skip by traits."""
    run = config.stash[RUN]
    by_id = any("::" in word for word in config.args)
    left = selection.left_out_markers(config.option, named=bool(config.option.keyword) or by_id)
    collected = list(items)
    if config.option.test_cells:
        items[:] = selection.without_cells_outside_test_cells(items, run.recipes.values(), complete=not by_id)
    items[:] = selection.without_optional_cells(items, left)
    if config.option.loader:
        items[:] = selection.tests_and_loader_cells(items)
        selection.skip_cells_needing_own_loader(items)
    _deselect(config, collected, items)
    xdist_controller_and_worker.mark_row_parts(config, items)
    yield
    selected = run.keep_own_shard(items) if run.shard else list(items)
    _deselect(config, items, selected)
    selection.skip_cells_without_traits(selected, run.recipes)
    items[:] = selection.sorted_by_row(selected, run.vm_names_in_order)


def _deselect(config: pytest.Config, before: list[pytest.Item], after: list[pytest.Item]) -> None:
    """Report the items that are not left to pytest, which counts them."""
    kept = set(after)
    config.hook.pytest_deselected(items=[item for item in before if item not in kept])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run rows as they become ready. Under pytest-xdist, and for --collect-only, pytest's own loop runs."""
    config = session.config
    if config.option.collectonly or session.testsfailed:
        return None
    run = config.stash[RUN]
    run.record_selected_cells(session.items)
    if not isinstance(run, ControllerRun) or xdist_controller_and_worker.distributes_to_workers(config):
        return None
    run_loop.run(session, run.fleet, run.print_new_board_lines)
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
