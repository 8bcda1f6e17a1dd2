"""The check that nothing has to be built, which compares every file of every image with its hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from harness.bench.context import LAUNCHER, BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition
from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError

_CHECK = "check"
PAIRS = (FigureDefinition("rebuild_check_s", "./pinpoint build with nothing to build", "at most 1", _CHECK),)
_SECONDS = 600.0


@contextmanager
def open_sides(context: BenchContext, _wanted: Sequence[str]) -> Iterator[Mapping[str, Measure]]:
    """Yield one side: the whole process of `./pinpoint build` for all selected VMs."""
    names = [recipe.name for recipe in context.recipes]
    for name in names:
        context.obtain_image(name)

    def check() -> float:
        log = context.log_directory / "build.log"
        words = [str(LAUNCHER), "build", *(f"--vm={name}" for name in names)]
        done = process.run(words, deadline=Deadline.after(_SECONDS), log=log)
        if done.rc:
            raise HostError(f"./pinpoint build ended with status {done.rc}", where=str(log))
        return done.seconds

    yield {_CHECK: check}
