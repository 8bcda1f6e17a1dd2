"""The commands that go into a guest by hand or come back to a failure: shell, repro."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import Bus
from harness.guest import debugger, start
from harness.guest.accelerator import choose
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import Beginning
from harness.images.prepare import prepare
from harness.images.recipe import Recipe, select
from harness.images.workshop import Workshop
from harness.matrix import hands, replay
from harness.report import bundle
from harness.report.board import Board


@click.command()
@click.argument("directory", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--times", default=1, show_default=True, metavar="N", type=click.IntRange(min=1), help="Replay so often.")
@click.option("--shell", "way", flag_value=hands.SHELL, help="Go into the guest when the cell fails.")
@click.option("--gdb", "way", flag_value=hands.GDB, help="Debug the guest's kernel when the cell fails.")
@click.option("--anyway", is_flag=True, help="Replay on an image that is another than the bundle's.")
def repro(directory: Path, times: int, way: str | None, anyway: bool) -> int:
    """Replay the cell of a bundle and say whether it fails the same way."""
    if way and times > 1:
        raise click.UsageError(f"--{way} is for one replay, not for {times}.")
    if way == hands.GDB:
        debugger.program(select([bundle.read(directory).cell.vm])[0].architecture)
    return replay.replay(directory.resolve(), times, anyway=anyway, at_failure=way or "")


@click.command()
@click.option("--vm", required=True, metavar="NAME", help="The VM to boot.")
@click.option("--accel", metavar="NAME", help="Force an accelerator: kvm or tcg.")
@click.option("--gdb", is_flag=True, help="Debug its kernel instead.")
def shell(vm: str, accel: str | None, gdb: bool) -> int:
    """Boot a guest and go into it. Commands piped in are run; the status is the shell's own."""
    recipe = select([vm])[0]
    if gdb:
        debugger.program(recipe.architecture)
    with _booted(recipe, accel) as guest:
        status = hands.take(guest, hands.GDB if gdb else hands.SHELL)
    if gdb and status:
        raise HostError(f"gdb ended with status {status}")
    return status


def _booted(recipe: Recipe, accel: str | None) -> Guest:
    """A guest, the board telling what it takes."""
    bus = Bus()
    board = Board(bus, sys.stderr.isatty(), lambda line: click.echo(line, err=True))
    workshop = Workshop.in_cache(bus)

    def boot() -> Guest:
        image = prepare(recipe, workshop)
        log = paths.cache() / "logs" / f"shell-{recipe.name}.log"
        deadline = Deadline.after(recipe.machine.boot_seconds)
        return start.boot(image, Beginning(log, RunKeys.make(), choose(recipe.architecture, accel), bus, deadline))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="shell") as aside:
        try:
            guest = aside.submit(boot)
            board.follow([guest])
        finally:
            board.close()
    return guest.result()
