"""The commands that open a shell in a guest or replay a failure: shell, repro."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli_common import complete_vm, example_epilog, kernel_options, project_option
from harness.core import paths
from harness.core.errors import HostError
from harness.core.events import Bus
from harness.guest import run_gdb_on_guest, start
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.prepare import prepare
from harness.images.vm_recipe import Recipe, replace_in_this_run, select
from harness.matrix.commands import attach_shell_or_gdb, prepare_given_kernel_with_board, replay
from harness.matrix.guests.freezer import Freezer
from harness.report import bundle
from harness.report.live_or_plain_progress_board import Board


@click.command(epilog=example_epilog("repro results/latest/bundles/parisc/CELL --times 5"))
@click.argument("directory", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--times", default=1, show_default=True, metavar="N", type=click.IntRange(min=1), help="Number of replays."
)
@click.option(
    "--shell", "way", flag_value=attach_shell_or_gdb.SHELL, help="Open a shell in the guest when the cell fails."
)
@click.option("--gdb", "way", flag_value=attach_shell_or_gdb.GDB, help="Debug the guest's kernel when the cell fails.")
@click.option("--anyway", is_flag=True, help="Replay on an image other than the bundle's.")
@project_option
@kernel_options
def repro(
    directory: Path, times: int, way: str | None, anyway: bool, kernels: Sequence[Path], config: Path | None
) -> int:
    """Replay the cell of a bundle and report whether it fails the same way."""
    if way and times > 1:
        raise click.UsageError(f"--{way} is for one replay, not for {times}.")
    if kernels or config:
        vm = bundle.read(directory).cell.vm
        replace_in_this_run(
            prepare_given_kernel_with_board.prepare_given_kernel_recipe([vm], kernels, config, boot=True)
        )
    if way == attach_shell_or_gdb.GDB:
        run_gdb_on_guest.find_gdb(replay.recipe_of(bundle.read(directory)).architecture)
    return replay.replay(directory, times, anyway=anyway, at_failure=way or "")


@click.command(epilog=example_epilog("shell --vm x86_64-debian"))
@click.option("--vm", required=True, metavar="NAME", shell_complete=complete_vm, help="The VM to use.")
@project_option
@kernel_options
@click.option("--accel", metavar="NAME", help="Force an accelerator: kvm or tcg.")
@click.option("--gdb", is_flag=True, help="Debug its kernel instead.")
@click.option("--anew", is_flag=True, help="Boot the guest even if a frozen one can be thawed.")
def shell(vm: str, kernels: Sequence[Path], config: Path | None, accel: str | None, gdb: bool, anew: bool) -> int:
    """Open a shell in a guest: thawed if a run has frozen one, otherwise booted.

    Commands from a pipe are run; the exit status is the shell's.
    """
    recipe = (
        prepare_given_kernel_with_board.prepare_given_kernel_recipe([vm], kernels, config, boot=True)
        if kernels or config
        else select([vm])[0]
    )
    if gdb:
        run_gdb_on_guest.find_gdb(recipe.architecture)
    with _begun(recipe, accel, anew) as guest:
        status = attach_shell_or_gdb.attach(guest, attach_shell_or_gdb.GDB if gdb else attach_shell_or_gdb.SHELL)
    if gdb and status:
        raise HostError(f"gdb ended with status {status}")
    return status


def _begun(recipe: Recipe, accel: str | None, anew: bool) -> Guest:
    """Start a guest, with the board on standard error."""
    bus = Bus()
    board = Board(bus, sys.stderr.isatty(), lambda line: click.echo(line, err=True))
    build_context = BuildContext.in_cache(bus)

    def options(image: Image, keys: RunKeys) -> StartOptions:
        log = paths.cache() / "logs" / f"shell-{recipe.name}.log"
        return StartOptions.for_image(image, log=log, keys=keys, bus=bus, forced_accelerator=accel)

    def begin() -> Guest:
        image = prepare(recipe, build_context)
        freezer = Freezer(build_context, bus, accel)
        frozen = (
            None
            if anew
            else freezer.find_frozen_state_file(image, lambda keys: start.boot(image, options(image, keys)))
        )
        keys = RunKeys.make()
        return freezer.thaw(image, frozen, options(image, keys)) if frozen else start.boot(image, options(image, keys))

    return board.run_calls_then_close(begin)[0]
