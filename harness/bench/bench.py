"""One run of the bench: group after group, each figure written as soon as it is measured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from harness.bench import benchmark_registry, host, saved_results, table
from harness.bench.benchmark_registry import Group
from harness.bench.context import BenchContext
from harness.bench.interleave import interleave
from harness.bench.measured_ratio_and_goal import FigureResult, figure_result
from harness.core import paths
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe
from harness.matrix.guests.fleet import Fleet
from harness.report.live_or_plain_progress_board import Board
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory

# Output to a log is not wrapped.
_UNBOUNDED = 1000
_NARROWEST = 100


def run_bench_command(recipes: Sequence[Recipe], runs: int, names: Sequence[str]) -> int:
    """Measure figures on these VMs; return 0 when all that this host allows was measured, whether or not goals are met.

    Raises UsageError for an unknown figure; HostError, BuildError and what a measure raises.
    """
    groups = benchmark_registry.choose_groups(recipes, names)
    bus = Bus()
    board = Board(bus, sys.stdout.isatty())
    build_context = BuildContext.in_cache(bus)
    directory = RunDirectory.create(paths.results())
    fleet = Fleet(recipes, build_context=build_context, bus=bus, directory=directory.path, forced_accelerator=None)
    context = BenchContext(recipes, runs, directory, build_context, bus, fleet)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="bench") as aside:
        try:
            measured = aside.submit(measure_groups, context, groups)
            board.follow_jobs([measured])
        finally:
            board.close()
            fleet.close()
            directory.reserved_space_file.unlink(missing_ok=True)
    _show(measured.result(), context)
    return 0


def measure_groups(context: BenchContext, groups: Sequence[Group]) -> list[FigureResult]:
    """Measure group after group; the results so far are written after each."""
    figures = Figures(context.directory)
    before = host.host_facts(context.recipes)
    found: list[FigureResult] = []
    for group in groups:
        new = _measured(context, group)
        for each in new:
            saved_results.add_figure_and_medians(figures, each)
        found += new
        about = {**before, "runs": context.runs, "load_after": host.load_average()}
        saved_results.write_bench_json(context.directory, about, found, context.matrix_time_figures)
    return found


def _measured(context: BenchContext, group: Group) -> list[FigureResult]:
    wanted = list(dict.fromkeys(side for pair in group.figure_definitions for side in pair.side_names))
    with context.bus.step(group.vm or "all", group.figure_definitions[0].name) as step:
        step.publish_progress("preparing")
        with group.open_sides(context, wanted) as sides:
            taken = interleave({name: sides[name] for name in wanted}, context.runs, step.publish_progress)
        found = [figure_result(pair, taken) for pair in group.figure_definitions]
        step.set_final_detail("; ".join(f"{each.definition.name} {_value(each)}" for each in found))
    return found


def _value(each: FigureResult) -> str:
    return each.reason_not_measured if each.value is None else f"{each.value:.3g}"


def _show(outcomes: Sequence[FigureResult], context: BenchContext) -> None:
    terminal = sys.stdout.isatty()
    width = max(_NARROWEST, shutil.get_terminal_size().columns) if terminal else _UNBOUNDED
    console = Console(width=width, highlight=False)
    print_line: Callable[..., None] = console.print
    print_line(table.figures_table(outcomes))
    if context.matrix_time_figures:
        print_line(table.matrix_time_by_phase_table(context.matrix_time_figures))
    print_line(f"results: {context.directory.path}", soft_wrap=True)
