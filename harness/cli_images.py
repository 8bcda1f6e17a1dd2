"""The commands about images: list, build."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import click

from harness.cli_common import VMS, example, one_line, print_error
from harness.core.errors import PinpointError
from harness.core.events import Bus
from harness.images import prepare
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.recipe import Recipe, load_all, select
from harness.report.board import Board


@click.command(name="list", epilog=example("list --format json"))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_(form: str) -> int:
    """List the VMs, their traits, and which of their images are built."""
    build_context = BuildContext.in_cache(Bus())
    recipes = {recipe: prepare.built(recipe, build_context) for recipe in load_all().values()}
    if form == "json":
        click.echo(json.dumps([_row(recipe, built) for recipe, built in recipes.items()], indent=2))
        return 0
    for recipe, built in recipes.items():
        traits = ", ".join(name for name, has in recipe.traits if has)
        core = "" if recipe.core else ", not core"
        click.echo(f"{click.style(recipe.name, bold=True)}  {'built' if built else 'not built'}{core}")
        click.echo(f"    {one_line(recipe.describe)}")
        click.echo(f"    traits: {traits}")
    return 0


@click.command(epilog=example("build --vm parisc"))
@VMS
def build(vms: Sequence[str]) -> int:
    """Build images in parallel; images already in the store are verified."""
    recipes = select(vms)
    bus = Bus()
    board = Board(bus, sys.stdout.isatty())
    build_context = BuildContext.in_cache(bus)
    try:
        with ThreadPoolExecutor(max_workers=len(recipes), thread_name_prefix="build") as pool:
            built = {recipe.name: pool.submit(prepare.prepare, recipe, build_context) for recipe in recipes}
            # Inside the pool's block, whose end waits for the builds.
            board.follow(built.values())
    finally:
        board.close()
    return max((_report(name, image) for name, image in built.items()), default=0)


def _row(recipe: Recipe, built: bool) -> dict[str, object]:
    """A VM as an object of `list --format json`."""
    about = recipe.model_dump(include={"name", "arch", "describe", "core", "traits"})
    return {**about, "built": built}


def _report(name: str, image: Future[Image]) -> int:
    """Print how a build ended; return its exit status."""
    error = image.exception()
    if error is None:
        click.echo(f"{name}: {image.result().release}, image {image.result().key}")
        return 0
    if not isinstance(error, PinpointError):
        raise error
    print_error(error, name)
    return error.exit_status
