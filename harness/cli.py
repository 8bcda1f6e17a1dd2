"""The command line: what `./pinpoint` hands over to."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import click

from harness import cli_bench, cli_guests
from harness import doctor as host
from harness.core import paths, process
from harness.core.errors import BuildError, PinpointError
from harness.core.events import Bus
from harness.guest import accelerator, qemu
from harness.images import prepare
from harness.images.image import Image
from harness.images.recipe import Recipe, load_all, select
from harness.images.workshop import Workshop
from harness.matrix import session, verification
from harness.matrix.session import INTERRUPTED, WRONG_USE
from harness.report.board import Board
from harness.verdict.printk import plain

_PROGRAM = "./pinpoint"

_VM = click.option("--vm", "vms", multiple=True, metavar="NAME", help="A VM; again for more. All core VMs without it.")
_FORWARDED = {"ignore_unknown_options": True, "allow_interspersed_args": True}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Boots real kernels and proves that kprobes land where symbol + offset says."""


@cli.command(context_settings=_FORWARDED)
@_VM
@click.option("--accel", metavar="NAME", help="Force an accelerator: kvm or tcg.")
@click.option("--dry-run", is_flag=True, help="Print the QEMU command lines and run nothing.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def run(vms: Sequence[str], accel: str | None, dry_run: bool, pytest_arguments: Sequence[str]) -> int:
    """Run the matrix: every case on every VM. What is not known here goes to pytest (-k, -x, --lf, -n)."""
    recipes = select(vms)
    if dry_run:
        return _dry_run(recipes, accel)
    for recipe in recipes if accel else ():
        accelerator.choose(recipe.architecture, accel)
    options = [f"--vm={recipe.name}" for recipe in recipes] if vms else []
    options += [f"--accel={accel}"] if accel else []
    chosen = [] if _names_tests(pytest_arguments) else [str(paths.CASES)]
    return session.run([*options, *_side_by_side(len(recipes), pytest_arguments), *pytest_arguments, *chosen])


@cli.command(context_settings=_FORWARDED)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(pytest_arguments: Sequence[str]) -> int:
    """Run the project's own tests and the core matrix, whole kernels swept, in one pytest run. What CI runs."""
    rows = len(select(()))
    chosen = [] if _names_tests(pytest_arguments) else [str(paths.PROJECT / "tests"), str(paths.CASES)]
    return session.run([*_side_by_side(rows, pytest_arguments), *_WHOLE_KERNELS, *pytest_arguments, *chosen])


@cli.command(name="list")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_(form: str) -> int:
    """List the VMs, their traits, and which of their images are built."""
    workshop = Workshop.in_cache(Bus())
    recipes = {recipe: prepare.built(recipe, workshop) for recipe in load_all().values()}
    if form == "json":
        click.echo(json.dumps([_row(recipe, built) for recipe, built in recipes.items()], indent=2))
        return 0
    for recipe, built in recipes.items():
        traits = ", ".join(name for name, has in recipe.traits if has)
        core = "" if recipe.core else ", not core"
        click.echo(f"{click.style(recipe.name, bold=True)}  {'built' if built else 'not built'}{core}")
        click.echo(f"    {recipe.describe}")
        click.echo(f"    traits: {traits}")
    return 0


@cli.command()
@_VM
def build(vms: Sequence[str]) -> int:
    """Build images and nothing else, side by side; what is in the store is verified."""
    recipes = select(vms)
    bus = Bus()
    board = Board(bus, sys.stdout.isatty())
    workshop = Workshop.in_cache(bus)
    try:
        with ThreadPoolExecutor(max_workers=len(recipes), thread_name_prefix="build") as pool:
            built = {recipe.name: pool.submit(prepare.prepare, recipe, workshop) for recipe in recipes}
            # Within the pool, which otherwise waits for its builds to end.
            board.follow(built.values())
    finally:
        board.close()
    return max((_told(name, image) for name, image in built.items()), default=0)


@cli.command()
@click.argument("file", metavar="FILE.ko", type=click.Path(path_type=Path))
@click.option("--vm", required=True, metavar="NAME", help="The VM whose kernel the module was built for.")
@click.option("--system-map", type=click.Path(path_type=Path), help="That kernel's System.map, to name addresses by.")
def verify(file: Path, vm: str, system_map: Path | None) -> int:
    """Load someone else's probe module and check every kprobe it makes, from outside the guest."""
    return verification.verify(file, select([vm])[0], system_map)


@cli.command()
def doctor() -> int:
    """Check the host: every requirement with its version, or the package to install."""
    return host.main()


for command in (cli_guests.repro, cli_guests.shell, cli_bench.bench):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Whatever goes wrong is told in one line, but for our own bugs."""
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    try:
        return int(
            cli.main(args=None if arguments is None else list(arguments), standalone_mode=False, prog_name=_PROGRAM)
            or 0
        )
    except click.ClickException as error:
        click.echo(f"pinpoint: {error.format_message()} See {_PROGRAM} -h.", err=True)
        return WRONG_USE
    except (click.Abort, KeyboardInterrupt):
        process.stop_all()
        return INTERRUPTED
    except PinpointError as error:
        _tell(error)
        return error.exit_status


_WHOLE_KERNELS = ("--sweep", "kernel")
# What pytest can do in one process only, or what settles already how many there are.
_ALONE = ("-n", "--numprocesses", "--dist", "-s", "--pdb", "--trace", "--co", "-p")


# What a guest and the process that runs its row take, at most.
_GIB_PER_WORKER = 2


def _side_by_side(rows: int, arguments: Sequence[str]) -> list[str]:
    """Rows side by side, each in a process of its own; in parts where there are more cores than rows.

    Two processes for each core: a guest and what asks it take turns, and a guest often waits for a timer.
    """
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    shards = max(1, cores // rows)
    count = min(rows * shards, 2 * cores, memory // _GIB_PER_WORKER)
    alone = count < 2 or any(word.startswith(_ALONE) for word in arguments)
    return [] if alone else ["-n", str(count), "--shards", str(shards)]


def _names_tests(arguments: Sequence[str]) -> bool:
    """Is a file or directory of tests among pytest's arguments?"""
    places = (Path(word.partition("::")[0]) for word in arguments if not word.startswith("-"))
    return any(place.exists() and place.resolve().is_relative_to(paths.PROJECT) for place in places)


def _dry_run(recipes: Sequence[Recipe], forced: str | None) -> int:
    """Print the command line of each guest; the names of files that are yet to be built are in capitals."""
    workshop = Workshop.in_cache(Bus())
    for recipe in recipes:
        image = prepare.prepare(recipe, workshop) if prepare.built(recipe, workshop) else None
        wiring = qemu.Wiring(
            console=3,
            monitor=4,
            console_log=Path("CONSOLE.log"),
            kernel=image.kernel if image else Path("KERNEL"),
            initrd=image.initrd if image else Path("INITRD"),
        )
        click.echo(shlex.join(qemu.argv(recipe, accelerator.choose(recipe.architecture, forced), wiring)))
    return 0


def _row(recipe: Recipe, built: bool) -> dict[str, object]:
    """A VM as `list --format json` has it."""
    about = recipe.model_dump(include={"name", "arch", "describe", "core", "traits"})
    return {**about, "built": built}


def _told(name: str, image: Future[Image]) -> int:
    """Tell how a build ended; the exit status it deserves."""
    error = image.exception()
    if error is None:
        click.echo(f"{name}: {image.result().release}, image {image.result().key}")
        return 0
    if not isinstance(error, PinpointError):
        raise error
    _tell(error, name)
    return error.exit_status


def _tell(error: PinpointError, about: str = "") -> None:
    """One line; for a failed build the end of its log before it."""
    if isinstance(error, BuildError):
        for line in error.last_lines():
            click.echo(f"    {plain(line)}", err=True)
        if error.log:
            click.echo(f"    (the whole log: {error.log})", err=True)
    click.echo(plain(": ".join(part for part in ("pinpoint", about, str(error)) if part)), err=True)


if __name__ == "__main__":
    sys.exit(main())
