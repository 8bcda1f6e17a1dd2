"""The command that finds the commit that broke a case: bisect."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from harness.cli_common import example_epilog, project_option
from harness.core import paths
from harness.core.errors import HARNESS_FAILED
from harness.core.events import Bus
from harness.core.files import sha256_of_strings
from harness.images.vm_recipe import select
from harness.matrix.commands.bisect import Bisection, report_lines
from harness.matrix.commands.bisect_test import CaseTest
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
@click.option("--anew", is_flag=True, help="Forget the commits that an interrupted bisection has tested.")
@project_option
def bisect(tree: Path, good: str, bad: str, expression: str, vm: str, config: Path | None, anew: bool) -> int:
    """Find the commit that broke a case, by building and testing the commits that git bisect picks.

    A commit that does not build or does not boot is skipped. The same command resumes an interrupted bisection. Exit
    status: 0 when the commit is found, 3 when only commits are left that could not be tested.
    """
    select([vm])
    source = tree.resolve()
    kept = paths.cache() / "bisect"
    directory = kept / sha256_of_strings([str(source), good, bad, expression, vm, str(config)])[:12]
    clone = kept / "trees" / sha256_of_strings([str(source)])[:12]
    bus = Bus()
    board = Board(bus, False, lambda line: click.echo(line, err=True))
    options = [f"--config={config.resolve()}"] if config else []
    bisection = Bisection(directory, clone, source, good, bad, CaseTest(vm, expression, options, directory, bus))
    if anew:
        bisection.forget_steps()
    elif bisection.has_earlier_steps:
        click.echo(f"resuming after {len(bisection.steps())} tested commits (--anew begins again)", err=True)
    (outcome,) = board.run_calls_then_close(
        partial(bisection.run, on_wait=lambda line: click.echo(f"{line} for its turn in {clone}", err=True))
    )
    for line in report_lines(outcome):
        click.echo(without_control_codes(line))
    return 0 if outcome.first_bad_commit else HARNESS_FAILED
