"""`./pinpoint repro`: replays the cell of a bundle N times and reports whether it failed the same way."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.errors import HARNESS_FAILED, UsageError
from harness.core.events import Bus
from harness.core.files import sha256
from harness.images import own_tree_modules
from harness.images.build_context import BuildContext
from harness.images.prepare import image_key
from harness.images.vm_recipe import Recipe, select
from harness.matrix.cells.cell_record_on_pytest_report import reported_cell
from harness.matrix.commands import bundle_trust, pytest_run
from harness.report import bundle
from harness.report.bundle import BundleDescription
from harness.report.record import Cell
from harness.report.same_failure import cells_have_same_failure
from harness.verdict.printk import without_control_codes

_HELD, _FAILED = 0, 1
_DID_NOT_FAIL = "it did not fail"
# A directory of its own, so that `latest` stays the run that wrote the bundle.
_PLACE = "replays"


class _Listener:
    """A pytest plugin that records how the cell ended."""

    def __init__(self, wanted: Cell) -> None:
        self._wanted = wanted.key
        self.cell: Cell | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the cell if it is the bundle's."""
        cell = reported_cell(report)
        if cell is not None and cell.key == self._wanted:
            self.cell = cell


def replay(directory: Path, times: int, *, anyway: bool, at_failure: str) -> int:
    """Replay a bundle; return 0 if the cell passed each time, 1 if it failed in any way, 2 and 3 as every command.

    Raises UsageError if `directory` is not a bundle, or, without `anyway`, if it is of another version of the project.
    """
    about = bundle.read(directory)
    build_context = BuildContext.in_cache(Bus())
    _demand_same_project(about, build_context, anyway=anyway)
    for difference in _differences(about, build_context):
        print(without_control_codes(f"pinpoint: {difference}"), file=sys.stderr)
    outcomes, worst = _tried(about, times, at_failure)
    if sum(outcomes.values()) < times:
        return worst or HARNESS_FAILED
    for line in _report(about.cell, outcomes, times):
        print(line)
    return worst


def replay_and_count_failures(directory: Path, times: int) -> tuple[int, int]:
    """Replay a bundle of this run; return how often the cell failed, and how often it was tried.

    Raises UsageError if `directory` is not a bundle.
    """
    about = bundle.read(directory)
    _demand_same_project(about, BuildContext.in_cache(Bus()), anyway=False)
    outcomes, _ = _tried(about, times, "")
    tried = sum(outcomes.values())
    held = sum(count for outcome, count in outcomes.items() if outcome.endswith(_DID_NOT_FAIL))
    return tried - held, tried


def _tried(about: BundleDescription, times: int, at_failure: str) -> tuple[Counter[str], int]:
    """Replay; return how often each outcome occurred, and the worst exit status. It ends when a cell did not run."""
    outcomes: Counter[str] = Counter()
    worst = _HELD
    for number in range(1, times + 1):
        listener = _Listener(about.cell)
        status = pytest_run.run(_arguments(about, times, at_failure), plugins=[listener])
        worst = max(worst, status)
        if listener.cell is None:
            break
        outcome = _outcome(about.cell, listener.cell)
        outcomes[outcome] += 1
        print(f"replay {number} of {times}: {outcome}")
    return outcomes, worst


def recipe_of(about: BundleDescription) -> Recipe:
    """Return the recipe of a bundle's VM. Raises UsageError if the name is not that of one VM."""
    bundle_trust.demand_vm(about)
    return select([about.cell.vm])[0]


def _arguments(about: BundleDescription, times: int, at_failure: str) -> list[str]:
    schedule = [f"--schedule={about.schedule}"] if about.schedule else []
    quiet = ["-q", "--no-summary"] if times > 1 or at_failure else ["-q"]
    interactive = [f"--at-failure={at_failure}", "-s"] if at_failure else []
    into = f"--into={paths.results() / _PLACE}"
    options = [*about.options, *schedule, into, *quiet, "--no-header", *interactive]
    return [f"--vm={about.cell.vm}", *options, *about.node_ids]


def _demand_same_project(about: BundleDescription, build_context: BuildContext, *, anyway: bool) -> None:
    """Demand that the cells are cases of this project, and that the recipe still makes the same image.

    Without an image key there is nothing to compare: the cell had no guest, because its image was not built.
    """
    bundle_trust.demand_cells(about)
    recipe = recipe_of(about)
    key = image_key(recipe, build_context)
    if about.cell.image_key and key != about.cell.image_key and not anyway:
        raise UsageError(
            f"the bundle is of image {about.cell.image_key}, this version of Pinpoint makes {key}",
            where=about.cell.vm,
            mend="use the version it was made with, or --anyway",
        )


def _differences(about: BundleDescription, build_context: BuildContext) -> Iterator[str]:
    """List what has changed since the cell failed, which may be why it no longer fails."""
    if about.hashes.get(about.file) not in (None, sha256(paths.case_file(about.file))):
        yield f"{about.file} has changed since"
    for source, now in own_tree_modules.source_hashes().items():
        if about.hashes.get(source) not in (None, now):
            yield f"{source} has changed since"
    if about.frozen and not (build_context.store.root / about.frozen).is_dir():
        yield f"{about.frozen} is no longer in the store: guests start from another boot"


def _outcome(before: Cell, now: Cell) -> str:
    if now.verdict.acceptable:
        return f"{now.verdict.value}: {_DID_NOT_FAIL}"
    if cells_have_same_failure(before, now):
        return "failed the same way"
    return without_control_codes(f"failed another way: {now.verdict.value}: {now.reason}")


def _report(before: Cell, outcomes: Counter[str], times: int) -> Iterator[str]:
    """Yield lines with the bundle's own failure, then how often each outcome occurred."""
    yield without_control_codes(f"\n{before.case} on {before.vm} was {before.verdict.value}: {before.reason}")
    for outcome, count in outcomes.most_common():
        yield f"{count} of {times}: {outcome}"
