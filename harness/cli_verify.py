"""The command that judges someone else's probes: verify."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from harness.cli_common import example_epilog, kernel_options, project_option, vms_option
from harness.core import paths
from harness.core.errors import PinpointError, UsageError
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.prepare import prepare
from harness.images.vm_recipe import Recipe, select, with_debug_symbols
from harness.matrix.commands import prepare_given_kernel_with_board
from harness.matrix.verify import plan, run
from harness.matrix.verify import report as report_forms
from harness.matrix.verify.plan import ModuleToLoad, VerifyRequest
from harness.matrix.verify.report import Report
from harness.report.live_or_plain_progress_board import Board

_PATH = click.Path(path_type=Path)


@click.command(name="verify", epilog=example_epilog("verify my_probe.ko --vm x86_64-debian --expect vfs_read+0x0"))
@click.argument("files", metavar="[FILE.ko|FILE.c|DIR]...", nargs=-1, type=_PATH)
@vms_option("A VM to run on; repeat for more.", required=True)
@project_option
@kernel_options
@click.option("--param", "parameters", multiple=True, metavar="[MODULE.]NAME=VALUE", help="A module parameter.")
@click.option(
    "--with",
    "also",
    multiple=True,
    metavar="MODULE",
    help="Load this first: a module of the kernel, or the path of a file, of a .c file or of a directory.",
)
@click.option(
    "--loader", default="insmod", metavar="COMMAND", help="What loads a module; pinned: see docs/pinning.md. [insmod]"
)
@click.option("--settle", type=click.FloatRange(0, 600), metavar="SECONDS", help="Judge after exactly so long.")
@click.option("--expect", "expected", multiple=True, metavar="SYMBOL+OFFSET", help="A probe must stand here.")
@click.option("--run", "command", default="", metavar="COMMAND", help="Judge what this command registers in a guest.")
@click.option("--stap", "script", default="", metavar="SCRIPT|FILE.stp", help="Judge a systemtap script's probes.")
@click.option("--debug-symbols", is_flag=True, help="Fetch the debug package of Debian's kernel, for --stap.")
@click.option("--with-package", "packages", multiple=True, metavar="NAME", help="A Debian package for the command.")
@click.option("--remove-targets", is_flag=True, help="Remove and load again the --with modules that are probed.")
@click.option("--system-map", type=_PATH, help="That kernel's System.map, to name addresses by.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--junit", type=_PATH, metavar="FILE", help="Write JUnit XML, too.")
def verify_foreign_probes(
    files: Sequence[Path],
    vms: Sequence[str],
    kernels: Sequence[Path],
    config: Path | None,
    parameters: Sequence[str],
    also: Sequence[str],
    loader: str,
    settle: float | None,
    expected: Sequence[str],
    command: str,
    script: str,
    debug_symbols: bool,
    packages: Sequence[str],
    remove_targets: bool,
    system_map: Path | None,
    as_json: bool,
    junit: Path | None,
) -> int:
    """Load someone else's probe modules and judge every probe that they register, from outside the guest.

    Exit status: 0 when no probe was missed and the kernel did not complain, 1 otherwise, 2 for bad input.
    """
    if not files and not command and not script:
        mend = f"give a module, its source or its directory, or --run, or --stap; see {paths.PROGRAM} verify -h"
        raise UsageError("nothing to verify", mend=mend)
    if command and script:
        raise UsageError("--run and --stap together", mend="give one of them")
    if files and (command or script):
        option = "--run" if command else "--stap"
        raise UsageError(f"modules and {option} together", mend="load what it needs first with --with")
    if debug_symbols and not script:
        raise UsageError("--debug-symbols without --stap", mend="give the script that needs debug information")
    if packages and not command:
        raise UsageError("--with-package without --run", mend="give the command that needs it")
    if remove_targets and not also:
        raise UsageError("--remove-targets without --with", mend="give the module that is probed: --with FILE.ko")
    if not loader.strip():
        raise UsageError("is empty", where="--loader", mend="give the command that loads a module, or leave it out")
    if loader != "insmod" and not files:
        raise UsageError("--loader without a module", mend="give the module that it loads")
    if parameters and not files:
        raise UsageError("--param without a module", mend="give the module that has the parameter")
    if junit and (junit.is_dir() or not os.access(junit.resolve().parent, os.W_OK)):
        raise UsageError("cannot be written", where=str(junit), mend="name a file in a directory that you may write to")
    pairs = _pairs(parameters)
    wanted = VerifyRequest(
        files, pairs, also, loader, settle, expected, command, packages, system_map, remove_targets, script
    )
    for word in expected:
        plan.parse_expected_site(word)
    given = (
        [prepare_given_kernel_with_board.prepare_given_kernel_recipe(vms, kernels, config, boot=True)]
        if kernels or config
        else [with_debug_symbols(recipe) if debug_symbols else recipe for recipe in select(vms)]
    )
    reports, error = _on_all(wanted, given, sys.stderr if as_json else sys.stdout)
    if reports and junit:
        report_forms.write_reports_as_junit(reports, junit)
    if reports:
        text = report_forms.reports_as_json(reports) if as_json else "\n\n".join(each.text() for each in reports)
        click.echo(text)
    if error:
        raise error
    return max(report.exit_status for report in reports)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{word!r} is no NAME=VALUE", where="--param", mend="as --param site=vfs_read")
        found[key] = value
    return found


@dataclass(frozen=True)
class _Planned:
    """What was checked for one VM before any guest is started."""

    image: Image
    modules: Sequence[ModuleToLoad]
    script: ModuleToLoad | None


def _on_all(
    wanted: VerifyRequest, recipes: Sequence[Recipe], stream: object
) -> tuple[list[Report], PinpointError | None]:
    """Verify on one VM after the other, with the board on the terminal.

    Returns the reports, and the first error of a VM that has no report. Raises, before any guest is started, what is
    wrong on any VM.
    """
    bus = Bus()
    terminal = sys.stdout.isatty() and stream is sys.stdout
    board = Board(bus, terminal, lambda line: print(line, file=sys.stderr))
    (outcome,) = board.run_calls_then_close(partial(_plan_then_verify, wanted, recipes, BuildContext.in_cache(bus)))
    return outcome


def _plan_then_verify(
    wanted: VerifyRequest, recipes: Sequence[Recipe], build_context: BuildContext
) -> tuple[list[Report], PinpointError | None]:
    reports: list[Report] = []
    first: PinpointError | None = None
    with ExitStack() as stack:
        places = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pinpoint-verify-"))) for _ in recipes]
        for recipe, place in zip(recipes, places, strict=True):
            plan.demand_architecture(wanted, recipe, place)
        planned = [
            _planned(wanted, recipe, build_context, place) for recipe, place in zip(recipes, places, strict=True)
        ]
        for each in planned:
            log = paths.cache() / "logs" / f"verify-{each.image.recipe.name}.log"
            try:
                reports.append(run.verify_on_vm(each.image, wanted, each.modules, build_context, log, each.script))
            except PinpointError as error:
                first = first or error
    return reports, first


def _planned(wanted: VerifyRequest, recipe: Recipe, build_context: BuildContext, place: Path) -> _Planned:
    image = prepare(recipe, build_context)
    modules = plan.modules_to_load(wanted, image, build_context, place)
    return _Planned(image, modules, plan.compile_systemtap_script(wanted, image, build_context, place))
