"""The test of one commit of a bisection: a run of its own, of one case on a kernel from the checked-out tree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import INTERRUPTED, PinpointError, UsageError
from harness.core.events import Bus
from harness.core.process import run
from harness.matrix.commands.bisect import Ruling, Step
from harness.report.compare import read_cells_of_run
from harness.report.record import Cell
from harness.report.run_dir import LATEST
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

_RUN_SECONDS = 4 * 3600.0
_NO_CASE = "no case matches"


@dataclass(frozen=True)
class CaseTest:
    """Runs the cells that `expression` selects; `options` are --vm and others of `./pinpoint run`."""

    vm: str
    expression: str
    options: Sequence[str]
    directory: Path
    bus: Bus

    def __call__(self, commit: str, tree: Path) -> Step:
        """Run, and rule: a failed cell is bad, passed cells are good, anything else cannot be decided.

        Raises UsageError if the expression selects no case, KeyboardInterrupt if the run was interrupted.
        """
        into = self.directory / "runs" / commit[:12]
        log = self.directory / "logs" / f"{commit[:12]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        lines: list[str] = []
        with self.bus.step(self.vm, f"commit {commit[:12]}") as step:

            def heard(line: str) -> None:
                lines.append(without_control_codes(line).strip())
                step.publish_progress(lines[-1][:100])

            words = ["run", f"--kernel={tree}", f"--vm={self.vm}", *self.options, "-n0", f"--into={into}"]
            finished = run(
                [sys.executable, "-P", "-m", "harness", *words, "-k", self.expression],
                deadline=Deadline.after(_RUN_SECONDS),
                env={"PYTHONPATH": str(paths.PROJECT)},
                log=log,
                on_line=heard,
            )
            if finished.rc == INTERRUPTED:
                raise KeyboardInterrupt
            ruled = ruling(commit, finished.rc, _cells(into), [line for line in lines if line], into / LATEST)
            step.set_final_detail(f"{ruled.ruling.value}: {ruled.why}"[:200])
        return ruled


def ruling(commit: str, status: int, cells: Sequence[Cell], lines: Sequence[str], results: Path) -> Step:
    """Return the ruling for the end of a run, by its exit status, its honest cells and what it printed.

    Raises UsageError if no case was selected, because that is the same for every commit.
    """
    if any(_NO_CASE in line for line in lines):
        what = next(line for line in lines if _NO_CASE in line)
        raise UsageError(what, where="-k", mend=f"see {paths.PROGRAM} run --co")
    honest = [cell for cell in cells if not cell.mutant]
    failed = [cell for cell in honest if not cell.verdict.acceptable and cell.verdict is not Verdict.HARNESS_ERROR]
    place = str(results.resolve()) if cells else ""
    if failed:
        first = failed[0]
        bundle = f"{place}/{first.bundle}" if first.bundle else place
        return Step(commit, Ruling.BAD, f"{first.case}: {first.verdict.value}: {first.reason}", results=bundle)
    passed = [cell for cell in honest if cell.verdict in (Verdict.PASS, Verdict.KNOWN_FAIL)]
    if status == 0 and passed:
        return Step(commit, Ruling.GOOD, f"{len(passed)} cells passed", results=place)
    if status == 0:
        return Step(commit, Ruling.SKIP, "every cell was skipped", results=place)
    errors = [line for line in lines if line.startswith("pinpoint: ")]
    why = errors[-1].removeprefix("pinpoint: ") if errors else f"the run ended with status {status}"
    unfit = [cell.reason for cell in honest if cell.verdict is Verdict.HARNESS_ERROR]
    return Step(commit, Ruling.SKIP, unfit[0] if unfit else why, results=place)


def _cells(into: Path) -> list[Cell]:
    try:
        return read_cells_of_run(into / LATEST)
    except (PinpointError, OSError):
        return []
