"""The command that judges someone else's probes: verify."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from harness.cli_common import example
from harness.core import paths
from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.prepare import prepare
from harness.images.recipe import Recipe, select
from harness.matrix.verify import plan, run
from harness.matrix.verify import report as report_forms
from harness.matrix.verify.plan import VerifyRequest
from harness.matrix.verify.report import Report
from harness.report.board import Board

_PATH = click.Path(path_type=Path)


@click.command(epilog=example("verify my_probe.ko --vm x86_64-debian --expect vfs_read+0x0"))
@click.argument("files", metavar="[FILE.ko|FILE.c|DIR]...", nargs=-1, type=_PATH)
@click.option("--vm", "vms", required=True, multiple=True, metavar="NAME", help="A VM to run on; repeat for more.")
@click.option("--param", "parameters", multiple=True, metavar="[MODULE.]NAME=VALUE", help="A module parameter.")
@click.option(
    "--with", "also", multiple=True, metavar="MODULE", help="Load this first: a module of the kernel, or a file."
)
@click.option(
    "--loader", default="insmod", metavar="COMMAND", help="The command that loads a module in the guest.  [insmod]"
)
@click.option(
    "--settle", type=click.FloatRange(0, 600), metavar="SECONDS", help="Judge after exactly this many seconds."
)
@click.option("--expect", "expected", multiple=True, metavar="SYMBOL+OFFSET", help="Require a probe here.")
@click.option(
    "--run", "command", default="", metavar="COMMAND", help="Run this command in a guest and judge what it registers."
)
# Hidden: no guest with added packages has been seen to boot; see docs/verify.md.
@click.option("--with-package", "packages", multiple=True, metavar="NAME", hidden=True)
@click.option("--system-map", type=_PATH, help="The System.map of the VM's kernel, for names of addresses.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--junit", type=_PATH, metavar="FILE", help="Write JUnit XML, too.")
def verify(
    files: Sequence[Path],
    vms: Sequence[str],
    parameters: Sequence[str],
    also: Sequence[str],
    loader: str,
    settle: float | None,
    expected: Sequence[str],
    command: str,
    packages: Sequence[str],
    system_map: Path | None,
    as_json: bool,
    junit: Path | None,
) -> int:
    """Load someone else's probe modules and judge every probe that they register, from outside the guest.

    Exit status: 0 when no probe was missed and the kernel did not complain, 1 otherwise, 2 for bad input.
    """
    if not files and not command:
        mend = "give a module, its source or its directory, or --run; see ./pinpoint verify -h"
        raise UsageError("nothing to verify", mend=mend)
    if files and command:
        raise UsageError("modules and --run together", mend="load what the command needs with --with")
    if packages and not command:
        raise UsageError("--with-package without --run", mend="give the command that needs it")
    wanted = VerifyRequest(files, _pairs(parameters), also, loader, settle, expected, command, packages, system_map)
    for word in expected:
        plan.parse_expected_site(word)
    reports = _on_all(wanted, select(vms), sys.stderr if as_json else sys.stdout)
    if junit:
        report_forms.write_junit(reports, junit)
    click.echo(report_forms.as_json(reports) if as_json else "\n\n".join(report.text() for report in reports))
    return max(report.status for report in reports)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{word!r} is no NAME=VALUE", where="--param", mend="as --param site=vfs_read")
        found[key] = value
    return found


def _on_all(wanted: VerifyRequest, recipes: Sequence[Recipe], stream: object) -> list[Report]:
    """Verify on one VM after the other, with the board on the terminal."""
    bus = Bus()
    terminal = sys.stdout.isatty() and stream is sys.stdout
    board = Board(bus, terminal, lambda line: print(line, file=sys.stderr))
    build_context = BuildContext.in_cache(bus)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as aside:
        try:
            jobs = [aside.submit(_on, wanted, recipe, build_context) for recipe in recipes]
            board.follow(jobs)
        finally:
            board.close()
    return [job.result() for job in jobs]


def _on(wanted: VerifyRequest, recipe: Recipe, build_context: BuildContext) -> Report:
    log = paths.cache() / "logs" / f"verify-{recipe.name}.log"
    with tempfile.TemporaryDirectory(prefix="pinpoint-verify-") as directory:
        place = Path(directory)
        plan.demand_architecture(wanted, recipe, place)
        image = prepare(recipe, build_context)
        modules = plan.modules_to_load(wanted, image, build_context, place)
        return run.verify(image, wanted, modules, build_context, log, place)
