"""The test of one commit of a bisection: a run of its own, of one case on a kernel from the checked-out tree."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import error_handover, paths
from harness.core.deadline import Deadline
from harness.core.error_handover import HandedOverError
from harness.core.errors import INTERRUPTED, WRONG_USE, HostError, PinpointError, UsageError
from harness.core.events import Bus, ProgressStep
from harness.core.process import run
from harness.matrix.commands.bisect_steps import CellEnd, CommitTest, worst_of
from harness.report.compare import read_cells_of_run
from harness.report.record import Cell
from harness.report.run_dir import LATEST
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

_RUN_SECONDS = 4 * 3600.0
_OUR_PREFIX, _PYTEST_PREFIX = "pinpoint: ", "ERROR: "
_RESUME = "then run the command again: it resumes"
_DISK_FULL = ("the disk is full", os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@dataclass(frozen=True)
class CaseTest:
    """Runs the cells that `expression` selects, `times` times; `options` are those of `./pinpoint run`."""

    vm: str
    expression: str
    options: Sequence[str]
    directory: Path
    bus: Bus
    times: int = 1

    def __call__(self, commit: str, tree: Path) -> CommitTest:
        """Build, boot and run; of several runs the worst end of each cell counts.

        Raises UsageError if the expression selects no case, HostError if the host failed, and KeyboardInterrupt if the
        run was interrupted.
        """
        tests: list[CommitTest] = []
        with self.bus.step(self.vm, f"commit {commit[:12]}") as step:
            while len(tests) < self.times and not (tests and tests[-1].obstacle):
                tests.append(self._run(commit, tree, step))
            tested = worst_of(tests)
            step.set_final_detail(_in_one_line(tested)[:200])
        return tested

    def _run(self, commit: str, tree: Path, step: ProgressStep) -> CommitTest:
        into = self.directory / "runs" / commit[:12]
        log = self.directory / "logs" / f"{commit[:12]}.log"
        error_file = self.directory / "error.json"
        log.parent.mkdir(parents=True, exist_ok=True)
        for left in (log, error_file, into / LATEST):
            left.unlink(missing_ok=True)
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(without_control_codes(line).strip())
            step.publish_progress(lines[-1][:100])

        words = ["run", f"--kernel={tree}", f"--vm={self.vm}", *self.options, "-n0", f"--into={into}"]
        began, used = time.monotonic(), _processor_seconds_of_children()
        finished = run(
            [sys.executable, "-P", "-m", "harness", *words, "-k", self.expression],
            deadline=Deadline.after(_RUN_SECONDS),
            env={"PYTHONPATH": str(paths.PROJECT), error_handover.VARIABLE: str(error_file)},
            log=log,
            on_line=on_line,
        )
        if finished.rc == INTERRUPTED:
            raise KeyboardInterrupt
        tested = read_end(
            commit, finished.rc, _cells(into), HandedOverError.read(error_file), [line for line in lines if line], log
        )
        return replace(
            tested,
            results=str((into / LATEST).resolve()) if tested.cells else "",
            cells=tuple(replace(cell, results=str(_place(into / LATEST, cell.results))) for cell in tested.cells),
            seconds=round(time.monotonic() - began, 1),
            processor_seconds=round(_processor_seconds_of_children() - used, 1),
        )


def read_end(
    commit: str,
    status: int,
    cells: Sequence[Cell],
    error: HandedOverError | None,
    lines: Sequence[str],
    log: Path,
) -> CommitTest:
    """Return the test of a commit from the end of its run; the mutants' cells are left out.

    A kernel that does not build, boot or have an option is an obstacle of the commit. Raises UsageError if no case was
    selected, because that is the same for every commit, and HostError if the host or the harness failed.
    """
    honest = [cell for cell in cells if not cell.mutant]
    full = next((cell.reason for cell in honest if any(text in cell.reason for text in _DISK_FULL)), "")
    if full or (error and error.of_host):
        what = full or (error.line if error else "")
        raise HostError(f"{what.rstrip('.')}; no ruling on {commit[:12]}", mend=_RESUME)
    if error:
        return CommitTest(commit, obstacle=error.line)
    if not honest and status == WRONG_USE:
        prefixes = (_OUR_PREFIX, _PYTEST_PREFIX)
        printed = [line.removeprefix(prefix) for line in lines for prefix in prefixes if line.startswith(prefix)]
        raise UsageError(
            printed[-1] if printed else "no case was selected", where="-k", mend=f"see {paths.PROGRAM} run --co"
        )
    if not honest:
        raise HostError(
            f"the run of {commit[:12]} ended with status {status} and no cell", where=str(log), mend=_RESUME
        )
    ends = tuple(CellEnd(f"{cell.file}::{cell.case}", cell.verdict, cell.reason, cell.bundle) for cell in honest)
    unsure = any(cell.verdict in (Verdict.HARNESS_ERROR, Verdict.BOOT_FAIL) for cell in honest)
    return CommitTest(commit, ends, final=not unsure)


def _place(run_directory: Path, bundle: str) -> Path:
    directory = run_directory.resolve()
    return directory / bundle if bundle else directory


def _in_one_line(test: CommitTest) -> str:
    failed = next(iter(test.failed().values()), None)
    return test.obstacle or (str(failed) if failed else f"{len(test.held)} of {len(test.cells)} passed")


def _processor_seconds_of_children() -> float:
    """The user and system time of all children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cells(into: Path) -> list[Cell]:
    try:
        return read_cells_of_run(into / LATEST)
    except (PinpointError, OSError):
        return []
