"""Whole matrix runs with everything built: their wall-clock time, and its lower bound, the CPU time of the guests."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.bench.context import LAUNCHER, BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition
from harness.core import paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import LATEST, RunDirectory

_WALL, _GUESTS = "wall", "guest CPU / cores"
WHOLE = FigureDefinition(
    "matrix_wall", "the warm core matrix compared with the CPU time of its guests", "at most 1.3", _WALL, _GUESTS
)
LANDINGS = FigureDefinition(
    "matrix_warm_s", "the warm core matrix, its landing cases without sweeps", "at most 120", _WALL
)
# Cases that are not about where a probe lands: loading and removal, kernels that die, the guest itself.
NON_LANDING_CASES = (
    "test_crash_triggers",
    "test_forced_removal",
    "test_guest",
    "test_kprobes_across_removal",
    "test_loader",
    "test_loader_refusals",
    "test_open_file_pins",
    "test_schedules",
    "test_stress",
    "test_what_pins",
)
_SECONDS = 2 * 3600.0
_GUEST_CPU = "run.guest_cpu_s"


def landing_files() -> list[str]:
    """Return the files of the cases about landings."""
    return [str(path) for path in sorted(paths.CASES.glob("test_*.py")) if path.stem not in NON_LANDING_CASES]


@contextmanager
def open_sides(
    name: str, arguments: Sequence[str], context: BenchContext, _wanted: Sequence[str]
) -> Iterator[Mapping[str, Measure]]:
    """Yield the sides of `./pinpoint run` with these arguments on all selected VMs, whose guests are frozen before."""
    for recipe in context.recipes:
        context.ensure_frozen_guest(recipe.name)
    runs = _Runs(context, name, arguments)
    yield {_WALL: runs.wall, _GUESTS: runs.guests}


class _Runs:
    """Runs the matrix and measures its wall-clock time; its other figures are then read from the results."""

    def __init__(self, context: BenchContext, name: str, arguments: Sequence[str]) -> None:
        self._ground = context
        self._name = name
        self._arguments = arguments
        self._results = context.directory.path / name
        self._latest: Mapping[str, float] = {}

    def wall(self) -> float:
        """Seconds of the whole process."""
        log = self._ground.log_directory / f"{self._name}.log"
        vms = [f"--vm={recipe.name}" for recipe in self._ground.recipes]
        before = _used()
        done = process.run(
            [LAUNCHER, "run", *vms, *self._arguments],
            deadline=Deadline.after(_SECONDS),
            env={"PINPOINT_RESULTS": str(self._results)},
            log=log,
        )
        # A failed cell takes little or no more time than one that holds; the log names it.
        if done.rc not in (0, 1):
            raise HostError(f"./pinpoint run ended with status {done.rc}", where=str(log))
        self._latest = {
            **time_figures_summed_over_vms(self._results / LATEST),
            "run.cpu_s": _used() - before,
            "run.status": done.rc,
        }
        self._ground.matrix_time_figures.setdefault(self._name, []).append(self._latest)
        return done.seconds

    def guests(self) -> float:
        """The CPU seconds of the guests' QEMUs divided by the number of cores: no run can take less."""
        return self._latest[_GUEST_CPU] / self._ground.build_context.slots.cores


def time_figures_summed_over_vms(results: Path) -> dict[str, float]:
    """Return the figures of where a run's time went, by name, summed over all VMs."""
    summed: dict[str, float] = {}
    for figure in Figures(RunDirectory(results.resolve())).read():
        if figure.figure.startswith("phase.") or figure.figure == _GUEST_CPU:
            summed[figure.figure] = summed.get(figure.figure, 0.0) + figure.value
    return summed


def _used() -> float:
    """The CPU seconds of all descendants that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


open_whole_matrix_sides = partial(open_sides, WHOLE.name, [])
open_landing_matrix_sides = partial(open_sides, LANDINGS.name, ["-m", "not sweep", *landing_files()])
