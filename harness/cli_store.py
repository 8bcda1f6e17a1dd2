"""The commands that exchange images between machines: store export, import, push, pull."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from harness.cli_common import example_epilog, project_option, vms_option
from harness.core import paths
from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.exchange import image_exchange
from harness.images.exchange.image_exchange import Imported
from harness.images.exchange.oci_layout import LayoutWriter, read_layout, write_tar
from harness.images.vm_recipe import Recipe, select
from harness.report.live_or_plain_progress_board import Board

_PATH = click.Path(path_type=Path)
_Result = TypeVar("_Result")
_VMS = vms_option("A VM; repeat for more.", required=True)
_KEY = click.option("--key", type=_PATH, metavar="FILE", help="Sign with this key of ssh-keygen.")
_SIGNERS = click.option(
    "--signers", type=_PATH, metavar="FILE", help="Refuse images not signed by these: ALLOWED SIGNERS in ssh-keygen(1)."
)


@click.group()
def store() -> None:
    """Exchange built images with other machines: export, import, push, pull."""


@store.command(epilog=example_epilog("store export x86_64-debian.tar --vm x86_64-debian"))
@click.argument("file", type=_PATH)
@project_option
@_VMS
@_KEY
def export(file: Path, vms: Sequence[str], key: Path | None) -> int:
    """Write images to FILE, a tar file in OCI's layout. An image that is not built is built first."""
    if file.is_dir():
        raise UsageError("is a directory", where=str(file), mend=f"name a file, or use {paths.PROGRAM} store push")
    try:
        with tempfile.TemporaryDirectory(prefix=".pinpoint-export-", dir=file.absolute().parent) as scratch:
            _write(select(vms), Path(scratch), key)
            write_tar(Path(scratch), file)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(file)) from None
    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


@store.command(name="import", epilog=example_epilog("store import x86_64-debian.tar"))
@click.argument("source", type=_PATH)
@_SIGNERS
def import_(source: Path, signers: Path | None) -> int:
    """Add every image in SOURCE, a tar file or a directory in OCI's layout, to the store.

    Each file is compared with its hash. An image holds programs that run on this host: import only images of people
    whom you trust, and name them with --signers.
    """
    layout = read_layout(source)

    def work(context: BuildContext) -> list[Imported]:
        with context.bus.step("host", "import") as step:
            return list(image_exchange.read_images(layout, context, signers, step))

    _print(_with_board(work))
    return 0


@store.command(epilog=example_epilog("store push /srv/images --vm parisc"))
@click.argument("directory", type=_PATH)
@project_option
@_VMS
@_KEY
def push(directory: Path, vms: Sequence[str], key: Path | None) -> int:
    """Add images to DIRECTORY, in OCI's layout. A missing directory is made; an image that is not built is built."""
    try:
        _write(select(vms), directory, key)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(directory)) from None
    return 0


@store.command(epilog=example_epilog("store pull /srv/images --vm parisc"))
@click.argument("directory", type=_PATH)
@project_option
@_VMS
@_SIGNERS
def pull(directory: Path, vms: Sequence[str], signers: Path | None) -> int:
    """Add the images of these VMs from DIRECTORY to the store, by the keys that this machine computes."""
    recipes = select(vms)
    layout = read_layout(directory)

    def work(context: BuildContext) -> list[Imported]:
        wanted = [(recipe, prepare.image_key(recipe, context)) for recipe in recipes]
        found = [image_exchange.find_image(layout, key, recipe.name) for recipe, key in wanted]
        with context.bus.step("host", "pull") as step:
            return [image_exchange.read_image(layout, each, context, signers, step) for each in found]

    _print(_with_board(work))
    return 0


def _write(recipes: Sequence[Recipe], directory: Path, key: Path | None) -> None:
    """Build what is missing and add the images to a layout directory, one after the other."""
    layout = LayoutWriter(directory)

    def work(recipe: Recipe, context: BuildContext) -> str:
        prepare.prepare(recipe, context)
        # Another context, so that the image contains only the look-ups in package lists that its key needs.
        own = BuildContext.in_cache(context.bus)
        with context.bus.step(recipe.name, "export") as step:
            return image_exchange.write_image(recipe, own, layout, key, step)

    for recipe in recipes:
        written = _with_board(partial(work, recipe))
        click.echo(f"{recipe.name}: image {written}{', signed' if key else ''}")


def _with_board(work: Callable[[BuildContext], _Result]) -> _Result:
    bus = Bus()
    board = Board(bus, sys.stderr.isatty(), lambda line: click.echo(line, err=True))
    context = BuildContext.in_cache(bus)
    return board.run_calls_then_close(lambda: work(context))[0]


def _print(images: Sequence[Imported]) -> None:
    for each in images:
        signed = f"signed by {each.signer}" if each.signer else "its signature was not checked"
        click.echo(f"{each.vm}: image {each.key}, {each.added} entries added, {each.present} there already; {signed}")
