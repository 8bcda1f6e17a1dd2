"""The commands that list and build images: list, build, kbuild-dir."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from harness.cli_common import (
    ARCHS,
    MATRIX,
    VMS,
    complete_vm,
    example_epilog,
    kernel_options,
    one_line_without_control_codes,
    print_error,
    project_option,
    vms_unless_others_are_named,
)
from harness.core.errors import HostError, PinpointError, UsageError
from harness.core.events import Bus
from harness.core.files import replacing
from harness.images import external_build, kernel_toolchain, own_tree_modules, prepare
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.shared_builds import SharedBuilds, shared_builds
from harness.images.vm_recipe import Recipe, Tier, load_all, select
from harness.report.live_or_plain_progress_board import Board


@click.command(name="list", epilog=example_epilog("list --format json"))
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "github", "gitlab"]), default="text", show_default=True
)
@project_option
@VMS
@click.option("--matrix", type=click.Choice(["core", "full"]), help="The core VMs, or all.")
@click.option("--shards", type=click.IntRange(1, 100), metavar="N", help="For a CI system: N jobs for each VM.")
def list_(form: str, vms: Sequence[str], matrix: Tier | None, shards: int | None) -> int:
    """List the VMs, their traits, which images are built, and which VMs share a kernel; by default, all VMs.

    --format github and --format gitlab print the jobs of a CI system for the VMs of --vm or --matrix, by default the
    core VMs; see docs/ci.md.
    """
    build_context = BuildContext.in_cache(Bus())
    if form in ("github", "gitlab"):
        from harness.matrix.commands import ci_jobs

        jobs = ci_jobs.github_matrix if form == "github" else ci_jobs.gitlab_pipeline
        click.echo(jobs(select(vms, matrix=matrix), build_context, shards or 1))
        return 0
    if shards:
        raise UsageError("--shards is for --format github or gitlab", mend="leave it out")
    chosen = select(vms, matrix=matrix) if vms or matrix else load_all().values()
    recipes = {recipe: prepare.is_built(recipe, build_context) for recipe in chosen}
    shared = shared_builds(load_all().values())
    if form == "json":
        click.echo(
            json.dumps([_row(recipe, built, shared[recipe.name]) for recipe, built in recipes.items()], indent=2)
        )
        return 0
    for recipe, built in recipes.items():
        traits = ", ".join(name for name, has in recipe.traits if has)
        core = "" if recipe.tier == "core" else ", not core"
        click.echo(f"{click.style(recipe.name, bold=True)}  {'built' if built else 'not built'}{core}")
        click.echo(f"    {one_line_without_control_codes(recipe.describe)}")
        click.echo(f"    traits: {traits}")
        for relation, others in (
            ("same kernel as", shared[recipe.name].same_kernel),
            ("same objects as", shared[recipe.name].same_objects),
        ):
            if others:
                click.echo(f"    {relation}: {', '.join(others)}")
    return 0


@click.command(epilog=example_epilog("build --vm parisc"))
@project_option
@VMS
@ARCHS
@MATRIX
@kernel_options
@click.option("--module", type=click.Path(path_type=Path), help="Build this module: its directory, or one .c file.")
def build(
    vms: Sequence[str],
    archs: Sequence[str],
    matrix: Tier | None,
    kernels: Sequence[Path],
    config: Path | None,
    module: Path | None,
) -> int:
    """Build images in parallel; images already in the store are verified.

    With --module, build a module for the kernel of each VM and leave its .ko next to its source. For several VMs, each
    .ko goes to a subdirectory with the VM's name.
    """
    vms = vms_unless_others_are_named(vms, others=bool(archs or matrix))
    if kernels or config:
        from harness.matrix.commands import prepare_given_kernel_with_board

        recipes = [
            prepare_given_kernel_with_board.prepare_given_kernel_recipe(
                vms, kernels, config, boot=False, names_other_vms=bool(archs or matrix)
            )
        ]
    else:
        recipes = select(vms, architectures=archs, matrix=matrix)
    if module:
        return _build_module(module, recipes)
    bus = Bus()
    board = Board(bus, sys.stdout.isatty())
    build_context = BuildContext.in_cache(bus)
    try:
        with ThreadPoolExecutor(max_workers=len(recipes), thread_name_prefix="build") as pool:
            built = {recipe.name: pool.submit(_build, recipe, build_context) for recipe in recipes}
            # Inside the pool's block, whose end waits for the builds.
            board.follow_jobs(built.values())
    finally:
        board.close()
    return max((_report(name, image) for name, image in built.items()), default=0)


def _build(recipe: Recipe, context: BuildContext) -> Image:
    """Return the image of a recipe with the modules of the own tree."""
    return own_tree_modules.with_own_modules(prepare.prepare(recipe, context), context)


@click.command(name="kbuild-dir", epilog=example_epilog("kbuild-dir --vm parisc"))
@click.option(
    "--vm", required=True, metavar="NAME", shell_complete=complete_vm, help="Build modules for this VM's kernel."
)
@project_option
def kbuild_dir(vm: str) -> int:
    """Print the directory to build modules against: make -C DIRECTORY M=... modules.

    The other arguments that make needs, ARCH and CROSS_COMPILE, go to standard error.
    """
    recipe = select([vm])[0]
    image = _prepared([recipe])[0]
    if image.headers is None:
        raise HostError("has no tree to build modules against", where=vm, mend="build its image again")
    architecture = recipe.architecture
    words = [f"ARCH={architecture.kernel_arch}", *kernel_toolchain.make_words(architecture)]
    if recipe.kernel.cflags:
        words.append(f"KCFLAGS='{recipe.kernel.cflags}'")
    click.echo(f"pinpoint: give make {' '.join(words)}", err=True)
    click.echo(image.headers.objects)
    return 0


def _build_module(module: Path, recipes: Sequence[Recipe]) -> int:
    """Build one module for each VM and copy it next to its source."""
    place = module if module.is_dir() else module.parent
    context = BuildContext.in_cache(Bus())
    for image in _prepared(recipes):
        into = place / image.recipe.name if len(recipes) > 1 else place
        with tempfile.TemporaryDirectory(prefix="pinpoint-module-") as directory:
            for built in external_build.build(module, image, context, Path(directory)):
                try:
                    into.mkdir(exist_ok=True)
                    with replacing(into / built.name) as scratch:
                        shutil.copyfile(built, scratch)
                except OSError as error:
                    raise UsageError(str(error.strerror), where=str(into), mend="choose another place") from None
                click.echo(into / built.name)
    return 0


def _prepared(recipes: Sequence[Recipe]) -> list[Image]:
    """Return the images, prepared one after the other, with the board on standard error."""
    bus = Bus()
    board = Board(bus, False, lambda line: click.echo(line, err=True))
    context = BuildContext.in_cache(bus)
    return board.run_calls_then_close(*(partial(prepare.prepare, recipe, context) for recipe in recipes))


def _row(recipe: Recipe, built: bool, shared: SharedBuilds) -> dict[str, object]:
    """A VM as an object of `list --format json`."""
    about = recipe.model_dump(include={"name", "arch", "describe", "tier", "traits"})
    return {**about, "built": built, **asdict(shared)}


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
