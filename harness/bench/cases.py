"""What one more case costs: real cells of a case that does nothing, beside a bare question to a guest."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.bench.context import Ground
from harness.bench.figure import Pair
from harness.bench.interleave import Measure
from harness.core import paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.guest.result import Result
from harness.matrix.commands import pytest_run

VM = "x86_64-debian"
_CASE, _QUESTION, _CHANNEL = "one more case", "round trip", "round trip, a channel each"
_GOAL = "at most 3"
PAIRS = (
    Pair(
        "case_marginal", "one more case beside a question to the shell that stays in the guest", _GOAL, _CASE, _QUESTION
    ),
    Pair(
        "case_vs_channel", "one more case beside a program run over SSH in a channel of its own", _GOAL, _CASE, _CHANNEL
    ),
)
_FEW, _MANY, _QUESTIONS = 10, 210, 100
_SECONDS = 600.0
# The guest and its check-up, and nothing of its own.
_CASES = """\
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_nothing(guest, number):
    pass
"""


@contextmanager
def open_sides(ground: Ground, _wanted: Sequence[str]) -> Iterator[Mapping[str, Measure]]:
    """Both on guests of one VM, thawed from the same file; the one that is asked stands idle while cells run."""
    ground.freeze(VM)
    with (
        tempfile.TemporaryDirectory(prefix="pinpoint-bench-") as scratch,
        ground.fleet.fresh(VM) as guest,
        _durations_as_they_are(),
    ):
        yield {
            _CASE: partial(_one_more, ground, Path(scratch)),
            _QUESTION: partial(_one_of_many, lambda: guest.run("true")),
            _CHANNEL: partial(_one_of_many, lambda: guest.link.run(("true",), Deadline.after(_SECONDS))),
        }


def _one_of_many(ask: Callable[[], Result]) -> float:
    began = time.monotonic()
    for _ in range(_QUESTIONS):
        ask().check()
    return (time.monotonic() - began) / _QUESTIONS


def _one_more(ground: Ground, scratch: Path) -> float:
    """Two runs that differ in how many cells they have; what is the same in both falls out."""
    return (_run(ground, scratch, _MANY) - _run(ground, scratch, _FEW)) / (_MANY - _FEW)


def _run(ground: Ground, scratch: Path, count: int) -> float:
    cases = scratch / f"test_{count}_times_nothing.py"
    cases.write_text(_CASES.format(count=count))
    log = ground.logs / "cases.log"
    argv = [sys.executable, "-P", "-m", "pytest", *pytest_run.COMMON, "-p", "harness.plugin", "-p", "no:cacheprovider"]
    environment = {"PINPOINT_RESULTS": str(ground.directory.path / "cases"), "PYTHONPATH": str(paths.PROJECT)}
    done = process.run([*argv, f"--vm={VM}", str(cases)], deadline=Deadline.after(_SECONDS), env=environment, log=log)
    if done.rc:
        raise HostError(f"{count} cells that do nothing ended with status {done.rc}", where=str(log))
    return done.seconds


@contextmanager
def _durations_as_they_are() -> Iterator[None]:
    """Cases that are none leave nothing in what rows are ordered by."""
    kept = paths.cache() / "durations.json"
    before = kept.read_bytes() if kept.exists() else None
    try:
        yield
    finally:
        if before is None:
            kept.unlink(missing_ok=True)
        else:
            kept.write_bytes(before)
