"""The commands that read the results of past runs: compare, export, history, matrix, merge, report."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click

from harness.cli_common import example_epilog
from harness.core import paths
from harness.core.errors import CELL_FAILED, UsageError
from harness.core.files import write_text
from harness.report import history as past_runs
from harness.report import lost_cells
from harness.report.compare import FailureBaseline, compare_with_baseline, comparison_lines, read_cells_of_run
from harness.report.compare import compare as compare_cells
from harness.report.html import write_merged_report
from harness.report.metrics_with_goals import Figures
from harness.report.page.case_docstrings import read_claims
from harness.report.record import describe_cell
from harness.report.run_dir import LATEST, RunDirectory
from harness.verdict.printk import without_control_codes

_FORMATS = ("ktap", "junit", "kcidb", "json", "markdown")
_ORIGIN = re.compile(r"[a-z0-9_]{1,64}")
_MERGED = "report-merged.html"
_RUN = click.Path(path_type=Path)


@click.command(epilog=example_epilog("compare results/20261128-120000-ab12 results/latest"))
@click.argument("old", type=_RUN)
@click.argument("new", type=_RUN, required=False)
@click.option("--strict", is_flag=True, help="Exit with status 1 also when a cell that passed before is skipped now.")
def compare(old: Path, new: Path | None, strict: bool) -> int:
    """Compare two runs, or a baseline file (.toml) with a run: exit status 1 if anything got worse.

    OLD is a run directory or a baseline file; NEW is a run directory, by default the latest run.
    """
    cells = read_cells_of_run(new or paths.results() / LATEST)
    if old.suffix == ".toml":
        if strict:
            from harness.matrix.commands.baseline_gate import STRICT_NEEDS_RUN

            raise UsageError(STRICT_NEEDS_RUN, where=str(old), mend="name an earlier run, or leave --strict out")
        found = compare_with_baseline(FailureBaseline.read(old), cells)
    else:
        found = compare_cells(read_cells_of_run(old), cells, strict=strict)
    for line in comparison_lines(found):
        click.echo(line)
    return CELL_FAILED if found.worse else 0


@click.command(epilog=example_epilog('export --format markdown >>"$GITHUB_STEP_SUMMARY"'))
@click.argument("run", type=_RUN, required=False)
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True, help="The format to print.")
@click.option("--origin", default="pinpoint", show_default=True, help="The submitter's name in KCIDB.")
@click.option("--output", type=_RUN, help="Write to this file instead of standard output.")
def export(run: Path | None, form: str, origin: str, output: Path | None) -> int:
    """Print a run in a format that other tools read. RUN is a run directory, by default the latest."""
    if not _ORIGIN.fullmatch(origin):
        raise UsageError("--origin takes lower-case letters, digits and underscores", where=repr(origin))
    directory = RunDirectory((run or paths.results() / LATEST).resolve())
    cells, missing = read_cells_of_run(directory.path), lost_cells.read_lost_cells(directory)
    match form:
        case "ktap":
            from harness.report.export.ktap import ktap

            text = ktap(cells, missing)
        case "junit":
            from harness.report.export.junit import junit

            text = junit(cells, directory.name, missing)
        case "kcidb":
            from harness.report.export.kcidb import kcidb

            data = kcidb(cells, Figures(directory).read(), directory.name, origin, missing)
            text = json.dumps(data, indent=1) + "\n"
        case "json":
            whole = {
                "run": directory.name,
                "cells": [cell.model_dump(mode="json", by_alias=True) for cell in cells],
                "lost": [each.model_dump(mode="json") for each in missing],
                "figures": [figure.model_dump(mode="json", by_alias=True) for figure in Figures(directory).read()],
            }
            text = json.dumps(whole, indent=1) + "\n"
        case _:
            from harness.report.export.markdown import markdown

            text = markdown(cells, directory.name, missing)
    _print(text, output)
    return 0


def _print(text: str, output: Path | None) -> None:
    """Write the text to a file, or print it. Raises UsageError when the file cannot be written."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_text(output, text)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(output)) from None


@click.command(epilog=example_epilog("matrix results/20261128-120000-ab12 --output docs/matrix.md"))
@click.argument("runs", type=_RUN, nargs=-1)
@click.option("--output", type=_RUN, help="Write to this file instead of standard output.")
@click.option("--update", is_flag=True, help="Keep what the file of --output has of VMs that the runs do not have.")
def matrix(runs: Sequence[Path], output: Path | None, update: bool) -> int:
    """Print runs as one page in Markdown: each VM with its counts and versions, and each claim on each VM.

    RUNS are run directories, by default the latest. A cell of several runs counts as it ended in the newest. A VM
    without a cell is listed as not run, or keeps its columns with --update. VMs for kernel mutants are not listed.
    """
    from harness.images.vm_recipe import select
    from harness.report.export.earlier_matrix_page import read_earlier_page
    from harness.report.export.newest_results_of_runs_markdown import VM_COLUMNS, Run, results_by_vm_markdown
    from harness.report.export.vms_without_recipe import VMS_WITHOUT_RECIPE

    directories = [RunDirectory(run.resolve()) for run in runs or (paths.results() / LATEST,)]
    found = [Run(directory.name, read_cells_of_run(directory.path)) for directory in directories]
    files = {cell.file for run in found for cell in run.cells}
    if update:  # The page has claims of other files too.
        files |= {str(path.relative_to(paths.PROJECT)) for path in paths.CASES.rglob("test_*.py")}
    claims = _distinct_claims(files)
    earlier = read_earlier_page(_page_to_update(output), VM_COLUMNS) if update else None
    listed = [recipe.name for recipe in select([], matrix="full")]
    _print(results_by_vm_markdown(found, claims, listed, VMS_WITHOUT_RECIPE, earlier), output)
    return 0


@click.command(epilog=example_epilog("merge results/20261128-120000-ab12 results/20261128-120001-cd34"))
@click.argument("runs", type=_RUN, nargs=-1, required=True)
@click.option("--expected", type=_RUN, metavar="FILE", help="The jobs that list --format github printed.")
@click.option("--into", type=_RUN, metavar="DIR", help="Write the merged run into this directory.")
@click.option("--baseline", type=_RUN, metavar="RUN|FILE", help="Compare the merged run with this.")
@click.option("--strict", is_flag=True, help="With --baseline: skips that were passes count as worse.")
def merge(runs: Sequence[Path], expected: Path | None, into: Path | None, baseline: Path | None, strict: bool) -> int:
    """Join the results of runs with --shard into one run, and print its directory last.

    RUNS are run directories. Exit status: as of a run; 1 also if a shard is missing, did not end or is there twice.
    With --baseline, failures that were known before do not count; a missing shard and a lost cell still do.
    """
    from harness.matrix.commands import merge_shards
    from harness.matrix.commands.baseline_gate import Gate
    from harness.report.export.markdown import markdown

    gate = Gate.from_options(baseline, None, strict=strict)
    gate.demand_strict_has_an_effect()
    jobs = merge_shards.read_expected_shards(expected) if expected else []
    for run in runs:
        if not run.is_dir():
            raise UsageError("is not a run directory", where=str(run), mend="name results/RUN")
    chosen = list(dict.fromkeys(run.resolve() for run in runs))
    found = merge_shards.merge([RunDirectory(run) for run in chosen], jobs, (into or paths.results()).resolve())
    click.echo(without_control_codes(markdown(found.cells, found.directory.name, found.missing)))
    for line in found.problems:
        click.echo(without_control_codes(f"pinpoint: {line}"), err=True)
    status = found.judge_and_report(gate)
    click.echo(found.directory.path)
    return status


def _page_to_update(output: Path | None) -> str:
    if output is None:
        raise UsageError("--update changes the file of --output", mend="name it")
    try:
        return output.read_text()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(output)) from None
    except UnicodeDecodeError:
        raise UsageError("is not a text file", where=str(output)) from None


def _distinct_claims(files: Iterable[str]) -> Mapping[str, str]:
    """Return the first line of each case file's docstring; the file's name if it has none or does not exist any more.

    Files with the same line have their paths added, so that each has a row of its own.
    """
    claims = {file: read_claims(file).file_claim or Path(file).name for file in files}
    shared = Counter(claims.values())
    return {file: claim if shared[claim] == 1 else f"{claim} ({file})" for file, claim in claims.items()}


@click.command(epilog=example_epilog("history test_orders --flaky"))
@click.argument("case", required=False, default="")
@click.option("--flaky", is_flag=True, help="Only cells that ended differently with the same image.")
def history(case: str, flaky: bool) -> int:
    """Print each cell's verdicts over the kept runs, and which cells are flaky.

    CASE is part of a case's name. A cell is flaky if runs with the same image ended in different verdicts.
    """
    root = paths.results()
    if not root.is_dir():
        raise UsageError("no run has left results yet", where=str(root), mend=f"{paths.PROGRAM} run")
    shown = [each for each in past_runs.read_history(root, case) if each.flaky or not flaky]
    for each in shown:
        counts = Counter(verdict.value for verdict in each.verdicts)
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        mark = "  FLAKY" if each.flaky else ""
        click.echo(without_control_codes(f"{describe_cell(each)}: {verdicts}; {each.seconds:.1f} s{mark}"))
    if not shown:
        click.echo("no cell matches" if case or flaky else "no cell has run")
    return 0


@click.command(epilog=example_epilog("report results/20261128-120000-ab12 results/20261128-130000-cd34"))
@click.argument("runs", type=_RUN, nargs=-1)
@click.option("--output", type=_RUN, help="The file to write: by default the run's report.html, or report-merged.html.")
def report(runs: Sequence[Path], output: Path | None) -> int:
    """Write report.html of a run again, or one report of several runs, merged.

    RUNS are run directories, by default the latest. Of a cell that several runs have, the last run's result counts;
    the report of several runs is written next to the newest of them.
    """
    named = runs or (paths.results() / LATEST,)
    for run in named:
        read_cells_of_run(run)
    chosen = [RunDirectory((run if run.is_dir() else run.parent).resolve()) for run in named]
    merged = max(chosen, key=lambda run: run.name).path.parent / _MERGED
    into = output or (chosen[0].html_report_file if len(chosen) == 1 else merged)
    try:
        click.echo(str(write_merged_report(chosen, into.resolve())))
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(into)) from None
    return 0
