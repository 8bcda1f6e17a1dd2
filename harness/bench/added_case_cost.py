"""The cost of one more case: real cells of a case that does nothing, compared with one request to a guest."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.bench.context import BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition
from harness.core import paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.guest.result import Result
from harness.matrix.commands import pytest_run

VM = "x86_64-debian"
_CASE, _QUESTION, _CHANNEL = "one more case", "round trip", "round trip, a channel each"
_GOAL = "at most 3"
PAIRS = (
    FigureDefinition(
        "case_marginal", "one more case compared with a command in the guest's resident shell", _GOAL, _CASE, _QUESTION
    ),
    FigureDefinition(
        "case_vs_channel",
        "one more case compared with a program run over an SSH channel of its own",
        _GOAL,
        _CASE,
        _CHANNEL,
    ),
)
_FEW, _MANY, _QUESTIONS = 10, 210, 100
_SECONDS = 600.0
# Each case costs its guest fixture and the check-up, and does nothing itself.
_CASES = """\
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_nothing(guest, number):
    pass
"""


@contextmanager
def open_sides(context: BenchContext, _wanted: Sequence[str]) -> Iterator[Mapping[str, Measure]]:
    """Yield the sides, on guests of one VM thawed from one file. The guest for requests is idle while cells run."""
    context.ensure_frozen_guest(VM)
    with (
        tempfile.TemporaryDirectory(prefix="pinpoint-bench-") as scratch,
        context.fleet.start_fresh_guest(VM) as guest,
        _durations_as_they_are(),
    ):
        yield {
            _CASE: partial(_one_more, context, Path(scratch)),
            _QUESTION: partial(_one_of_many, lambda: guest.run("true")),
            _CHANNEL: partial(_one_of_many, lambda: guest.ssh_connection.run(("true",), Deadline.after(_SECONDS))),
        }


def _one_of_many(request: Callable[[], Result]) -> float:
    began = time.monotonic()
    for _ in range(_QUESTIONS):
        request().check()
    return (time.monotonic() - began) / _QUESTIONS


def _one_more(context: BenchContext, scratch: Path) -> float:
    """Return the seconds of one cell, from two runs with different numbers of cells: their fixed cost cancels out."""
    return (_run(context, scratch, _MANY) - _run(context, scratch, _FEW)) / (_MANY - _FEW)


def _run(context: BenchContext, scratch: Path, count: int) -> float:
    cases = scratch / f"test_{count}_times_nothing.py"
    cases.write_text(_CASES.format(count=count))
    log = context.log_directory / "cases.log"
    argv = [sys.executable, "-P", "-m", "pytest", *pytest_run.COMMON, "-p", "no:cacheprovider"]
    environment = {"PINPOINT_RESULTS": str(context.directory.path / "cases"), "PYTHONPATH": str(paths.PROJECT)}
    done = process.run([*argv, f"--vm={VM}", str(cases)], deadline=Deadline.after(_SECONDS), env=environment, log=log)
    if done.rc:
        raise HostError(f"{count} cells that do nothing ended with status {done.rc}", where=str(log))
    return done.seconds


@contextmanager
def _durations_as_they_are() -> Iterator[None]:
    """Restore the file of durations that orders the rows, because the cells of this figure are no real cases."""
    kept = paths.cache() / "durations.json"
    before = kept.read_bytes() if kept.exists() else None
    try:
        yield
    finally:
        if before is None:
            kept.unlink(missing_ok=True)
        else:
            kept.write_bytes(before)
