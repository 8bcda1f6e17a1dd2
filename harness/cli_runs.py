"""The commands that run cases: run, test."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from harness.cli_common import (
    ARCHS,
    MATRIX,
    VMS,
    example_epilog,
    kernel_options,
    project_option,
    vms_unless_others_are_named,
)
from harness.core import paths
from harness.core.events import Bus
from harness.guest import accelerator, qemu
from harness.images import prepare, qemu_program
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe, Tier, replace_in_this_run, select
from harness.matrix.commands import given_kernel_recipe, kernel_mutant_run, prepare_given_kernel_with_board, pytest_run
from harness.matrix.commands.baseline_gate import Gate
from harness.matrix.hosts import hosts_file
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.run_options import OPTIONS

_FORWARDED = {"ignore_unknown_options": True, "allow_interspersed_args": True}
# What `--matrix full` adds to its VMs, and what `./pinpoint test` adds to the core VMs.
_FULL = ("--full", "--sweep", "kernel")
_CI_CELLS = ("--deep", "--test-cells")
# Options that make pytest run in one process, or that set the number of processes themselves.
_ALONE = ("-n", "--numprocesses", "--dist", "-s", "--pdb", "--trace", "--co", "-p")
# The most memory that a guest and the process of its row use.
_GIB_PER_WORKER = 2
# Suites of whole runs, by the argument of `test` that runs them: one breaks them, one runs the commands of docs/.
_SUITES = {name: paths.TESTS / name for name in ("decoders", "faults", "readers")}
_PYTEST_OPTIONS = {
    "-k EXPR": "run the cells whose names match, for example -k 'leaf and not mutant'",
    "-m EXPR": "run the cells whose markers match, for example -m 'not sweep'",
    "-x": "stop at the first failure",
    "--lf": "run the cells that failed in the last run",
    "-s": "run in one process and do not capture output",
    "-n N": "run rows in N processes; 0 runs all in one",
    "--co": "list the cells and run nothing",
}


class _RunCommand(click.Command):
    """Lists the options of the pytest plugin in the help and completes them; click does not parse them."""

    def listed_options(self) -> list[tuple[str, str]]:
        """The options that click does not parse, with their help, for the manual page."""
        return [*self._of_matrix(), *_PYTEST_OPTIONS.items()]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the options of the matrix too."""
        listed = [name for name in OPTIONS if incomplete.startswith("-") and name.startswith(incomplete)]
        known = super().shell_complete(ctx, incomplete)
        return [*known, *(CompletionItem(name) for name in listed if name not in {item.value for item in known})]

    def _of_matrix(self) -> list[tuple[str, str]]:
        return [
            (
                " ".join(filter(None, (name, option.get("metavar") or "|".join(option.get("choices", ()))))),
                option["help"],
            )
            for name, option in OPTIONS.items()
            if name not in {word for parameter in self.params for word in parameter.opts}
        ]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write this command's options, the matrix's, and a summary of pytest's."""
        super().format_options(ctx, formatter)
        with formatter.section("Options of the matrix"):
            formatter.write_dl(self._of_matrix())
        with formatter.section("Options of pytest (all of them: python -m pytest --help)"):
            formatter.write_dl(list(_PYTEST_OPTIONS.items()))


@click.command(cls=_RunCommand, context_settings=_FORWARDED, epilog=example_epilog("run --vm parisc -k stubs"))
@VMS
@project_option
@kernel_options
@click.option("--baseline", type=click.Path(path_type=Path), metavar="RUN|FILE", help="Compare with this afterwards.")
@click.option("--confirm", type=click.IntRange(1, 100), metavar="N", help="Replay each new failure N times.")
@click.option("--strict", is_flag=True, help="Skips that were passes, and traits that the VM has, count as worse.")
@ARCHS
@MATRIX
@click.option("--accel", metavar="NAME", help="Force an accelerator: kvm or tcg.")
@click.option("--loader", metavar="CMD", help="Run the pinning cases with this loader: docs/foreign-loaders.md.")
@click.option(
    "--hosts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run rows on hosts that ssh reaches: docs/hosts.md.",
)
@click.option("--host-qemu", is_flag=True, help="Use the host's QEMU even where a recipe needs a newer one.")
@click.option("--dry-run", is_flag=True, help="Print the QEMU command lines and run nothing.")
@click.option(
    "--kernel-mutants",
    metavar="[N,...]",
    is_flag=False,
    flag_value="",
    default=None,
    help="Run the cases on kernels with one bug each, all bugs or these, and print which case fails.",
)
@click.option(
    "--ktap",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    default=None,
    help="Write results as KTAP while cells end: to FILE, or to standard output, and all else to standard error.",
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    vms: Sequence[str],
    kernels: Sequence[Path],
    config: Path | None,
    baseline: Path | None,
    confirm: int | None,
    strict: bool,
    archs: Sequence[str],
    matrix: Tier | None,
    accel: str | None,
    loader: str | None,
    hosts: Path | None,
    host_qemu: bool,
    dry_run: bool,
    kernel_mutants: str | None,
    ktap: str | None,
    pytest_arguments: Sequence[str],
) -> int:
    """Run the matrix: every case on every VM, the slow ones only with --deep.

    Rows run in parallel unless -s, -n or --pdb is used. Options not listed here are passed to pytest. With --kernel the
    traits of the VM are those that the booted kernel has. With --baseline the exit status is 1 only for what got worse.
    """
    vms = vms_unless_others_are_named(vms, others=_names_other_vms(archs, matrix, pytest_arguments))
    gate = Gate.from_options(baseline, confirm, strict=strict)
    if kernels or config:
        recipe = prepare_given_kernel_with_board.prepare_given_kernel_recipe(
            vms, kernels, config, boot=True, accelerator=accel, names_other_vms=bool(archs or matrix)
        )
        gate.lost_traits = given_kernel_recipe.lost_traits(select([recipe.name])[0], recipe)
        replace_in_this_run(recipe, given_kernel_recipe.GivenKernel(tuple(kernels), config).command_line_options)
        vms = [recipe.name]
    else:
        gate.demand_strict_has_an_effect()
    recipes = select(vms, architectures=archs, matrix=matrix)
    if host_qemu:
        os.environ[qemu_program.HOST_QEMU_VARIABLE] = "1"
    if dry_run:
        return _dry_run(recipes, accel)
    # With hosts, those report what they have.
    elsewhere = bool(hosts) or any(word.partition("=")[0] == "--scheduler" for word in pytest_arguments)
    for recipe in recipes if accel and not elsewhere else ():
        accelerator.choose(recipe.architecture, accel)
    pytest_run.demand_own_cases_import()
    chosen_here = vms or archs or matrix
    options = [f"--vm={recipe.name}" for recipe in recipes] if chosen_here else []
    forced = [f"--accel={accel}"] if accel else []
    forced += (
        [f"--loader={ForeignLoaderProgramAndArguments.parse_command_line(loader).loader_option_value}"]
        if loader is not None
        else []
    )
    if hosts:
        hosts_file.read(hosts)
        forced += [f"--pinpoint-hosts={hosts.resolve()}"]
    if kernel_mutants is not None:
        return kernel_mutant_run.run_kernel_mutants_from_options(vms, kernel_mutants, [*forced, *pytest_arguments])
    options += _FULL if matrix == "full" and not _chooses_depth(pytest_arguments) else ()
    options += [*forced, *([f"--ktap={_ktap(ktap)}"] if ktap else [])]
    chosen = [] if _names_tests(pytest_arguments) else pytest_run.case_directories()
    arguments = [*options, *_side_by_side(len(recipes), pytest_arguments), *pytest_arguments, *chosen]
    return gate.judge_and_report(pytest_run.run(arguments, plugins=[gate.listener]), [*forced, *pytest_arguments])


@click.command(name="test", context_settings=_FORWARDED, epilog=example_epilog("test tests/test_elf.py"))
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def run_ci_tests(pytest_arguments: Sequence[str]) -> int:
    """Run the unit tests and the core matrix with its slow cases (--deep), as CI does.

    On some other VMs it runs a few cells, the `test_cells` of their recipes.
    `faults` as an argument runs the suite that breaks whole runs, `readers` the one that runs the commands of three
    pages of docs/ from a clean clone, and `decoders` the one that compares decoders with capstone over whole kernels.
    Options are those of `run`.
    """
    pytest_run.demand_unit_tests()
    rows = len(select((), test_cells=True))
    arguments = [str(_SUITES.get(word, word)) for word in pytest_arguments]
    ignored = [f"--ignore={suite}" for suite in _SUITES.values()]
    chosen = [] if _names_tests(arguments) else [str(paths.TESTS), *ignored, str(paths.CASES)]
    return pytest_run.run([*_side_by_side(rows, arguments), *_CI_CELLS, *arguments, *chosen])


def _names_other_vms(archs: Sequence[str], matrix: str | None, arguments: Sequence[str]) -> bool:
    """Do the arguments choose VMs themselves, so that the default VMs of the user's file do not apply?"""
    return bool(archs or matrix or any("::" in word for word in arguments))


def _chooses_depth(arguments: Sequence[str]) -> bool:
    """Return True if the arguments select cases themselves, or how much of each kernel to sweep."""
    return any(word.startswith(("-k", "-m", "--sweep", "--deep")) or "::" in word for word in arguments)


def _ktap(file: str) -> str:
    """The file that KTAP goes to.

    For `-`, standard output is kept for it; what else this process and its children print goes to standard error.
    """
    if file == "-":
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        return f"/dev/fd/{kept}"
    return str(Path(file).resolve())


def _side_by_side(rows: int, arguments: Sequence[str]) -> list[str]:
    """Return the options to run rows in parallel; where there are more cores than rows, each row is divided.

    There are two processes for each core: a guest and its client take turns, and a guest often waits for a timer.
    """
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    shards = max(1, cores // rows)
    count = min(rows * shards, 2 * cores, memory // _GIB_PER_WORKER)
    alone = count < 2 or any(word.startswith(_ALONE) for word in arguments)
    return [] if alone else ["-n", str(count), "--shards", str(shards)]


def _names_tests(arguments: Sequence[str]) -> bool:
    """Return True if a file or directory of tests is among pytest's arguments."""
    return any(_is_ours(word.partition("::")[0]) for word in arguments if not word.startswith("-"))


def _is_ours(word: str) -> bool:
    """Return True if the word is the path of a file or directory of Pinpoint or of the own tree."""
    # An expression for -k can be longer than any path; then exists() raises OSError.
    try:
        trees = filter(None, (paths.PROJECT, paths.own_tree()))
        return Path(word).exists() and any(map(Path(word).resolve().is_relative_to, trees))
    except (OSError, ValueError):
        return False


def _dry_run(recipes: Sequence[Recipe], forced: str | None) -> int:
    """Print the command line of each guest; files that are not built yet appear in capitals."""
    build_context = BuildContext.in_cache(Bus())
    for recipe in recipes:
        image = prepare.prepare(recipe, build_context) if prepare.is_built(recipe, build_context) else None
        wiring = qemu.QemuFiles(
            console_descriptor=3,
            monitor_descriptor=4,
            kernel=image.kernel if image else Path("KERNEL"),
            initrd=image.initrd if image else Path("INITRD"),
        )
        shown = image.recipe if image else recipe
        _, *words = qemu.argv(shown, accelerator.choose(shown.architecture, forced), wiring)
        click.echo(shlex.join([qemu_program.required_qemu_program(recipe, build_context), *words]))
    return 0
