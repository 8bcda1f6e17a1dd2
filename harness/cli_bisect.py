"""The command that finds the commit that broke a case: bisect."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from harness.cli_common import example_epilog, project_option
from harness.core import paths
from harness.core.errors import HARNESS_FAILED, UsageError
from harness.core.events import Bus
from harness.core.files import sha256_of_strings
from harness.images.vm_recipe import select
from harness.matrix.commands import pytest_run
from harness.matrix.commands.bisect import Bisection, report_lines
from harness.matrix.commands.bisect_test import CaseTest
from harness.matrix.commands.bisect_tree import BisectTree, SourceTree
from harness.report.live_or_plain_progress_board import Board
from harness.verdict.printk import without_control_codes

_PATH = click.Path(path_type=Path)


@click.command(
    epilog=example_epilog("bisect --tree ~/linux --good v6.1 --bad HEAD -k test_leaf --vm x86_64-fsections"),
)
@click.option("--tree", required=True, type=_PATH, metavar="DIR", help="A git tree of the kernel; it is only read.")
@click.option("--good", required=True, metavar="COMMIT", help="A commit on which the case passes.")
@click.option("--bad", required=True, metavar="COMMIT", help="A later commit on which it fails.")
@click.option("-k", "expression", required=True, metavar="CASE", help=f"The case, as in {paths.PROGRAM} run -k.")
@click.option("--vm", required=True, metavar="NAME", help="The VM: its machine and kernel configuration.")
@click.option("--config", type=_PATH, metavar="FILE", help="The whole .config to build with.")
@click.option("--strict", is_flag=True, help="A cell that --good passes and a commit skips counts as failed.")
@click.option(
    "--repeat",
    type=click.IntRange(1, 100),
    default=1,
    metavar="N",
    help="Run the case N times on each commit, which is bad if it fails once: for a case that fails at times.",
)
@click.option("--anew", is_flag=True, help="Forget the commits that an interrupted bisection has tested.")
@project_option
def bisect(
    tree: Path,
    good: str,
    bad: str,
    expression: str,
    vm: str,
    config: Path | None,
    strict: bool,
    repeat: int,
    anew: bool,
) -> int:
    """Find the commit that broke a case, by building and testing the commits that git bisect picks.

    A commit that does not build or does not boot is skipped. The cells that fail on --bad and not on --good decide. The
    same command resumes an interrupted bisection. Exit status: 0 when the commit is found, 3 when only commits are left
    that could not be tested.
    """
    recipes = select([vm])
    if len(recipes) != 1:
        raise UsageError("a bisection is for one VM", where=f"--vm {vm}", mend="name one")
    if not expression.strip():
        raise UsageError("names no case", where="-k", mend="name one; a bisection over all cases would take days")
    source = SourceTree.find(tree.resolve())
    ends = source.commit(good, "--good"), source.commit(bad, "--bad")
    source.demand_ancestor(*ends)
    pytest_run.demand_own_cases_import()
    pytest_run.demand_case_matches(recipes[0].name, expression)
    if source.has_uncommitted_changes:
        click.echo(f"uncommitted changes in {source.path} are in no commit, so that they are not tested", err=True)
    kept = paths.cache() / "bisect"
    question = [str(source.path), *ends, expression, recipes[0].name, _content(config), str(strict), str(repeat)]
    question.append(str(paths.own_tree() or ""))
    directory = kept / sha256_of_strings(question)[:12]
    clone = BisectTree(source, kept / "trees" / sha256_of_strings([str(source.path)])[:12])
    bus = Bus()
    board = Board(bus, False, lambda line: click.echo(line, err=True))
    options = [f"--config={config.resolve()}"] if config else []
    test = CaseTest(recipes[0].name, expression, options, directory, bus, times=repeat)
    bisection = Bisection(directory, clone, *ends, test, strict=strict)
    if not anew and bisection.tested_commits:
        click.echo(f"resuming after {bisection.tested_commits} tested commits (--anew begins again)", err=True)
    run = partial(
        bisection.run, on_wait=lambda line: click.echo(f"{line} for its turn in {clone.path}", err=True), anew=anew
    )
    try:
        (outcome,) = board.run_calls_then_close(run)
    except KeyboardInterrupt:
        click.echo(f"interrupted after {bisection.tested_commits} tested commits; the same command resumes", err=True)
        raise
    for line in report_lines(outcome):
        click.echo(without_control_codes(line))
    return 0 if outcome.first_bad_commit else HARNESS_FAILED


def _content(config: Path | None) -> str:
    """Return the text of the user's configuration: another one is another bisection. Raises UsageError."""
    if config is None:
        return ""
    try:
        return config.read_text(errors="replace")
    except OSError as error:
        raise UsageError(str(error.strerror), where=str(config), mend="give a kernel's .config with --config") from None
