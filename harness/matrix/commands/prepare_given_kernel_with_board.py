"""The kernel of --kernel for one command, obtained with the board on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe
from harness.matrix.commands import given_kernel_recipe
from harness.matrix.commands.given_kernel_recipe import GivenKernel
from harness.report.live_or_plain_progress_board import Board


def prepare_given_kernel_recipe(
    vms: Sequence[str],
    kernels: Sequence[Path],
    config: Path | None,
    *,
    boot: bool,
    accelerator: str | None = None,
    names_other_vms: bool = False,
) -> Recipe:
    """Build or unpack the kernel; with `boot`, ask the booted kernel for its traits. Raises as the steps do.

    Raises UsageError with `names_other_vms`, which is true if an option names VMs in another way than `vms`.
    """
    if names_other_vms:
        raise UsageError("--kernel is for one VM", mend="name it with --vm")
    if not kernels:
        raise UsageError("--config is for a kernel of your own", mend="add --kernel TREE")
    recipe = GivenKernel(tuple(kernels), config).recipe_with_kernel(vms)
    bus = Bus()
    board = Board(bus, False, lambda line: click.echo(line, err=True))
    context = BuildContext.in_cache(bus)
    if boot:
        prepare = partial(given_kernel_recipe.with_booted_kernel_traits, recipe, context, accelerator)
    else:
        prepare = partial(given_kernel_recipe.adapt_to_kernel_config, recipe, context)
    return board.run_calls_then_close(prepare)[0]
