"""Shared parts of the commands: the --vm option, examples in the help, and the report of an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from harness.core import paths
from harness.core.errors import BuildError, PinpointError
from harness.core.own_tree import use_own_tree
from harness.images.recipe_files import files_by_name
from harness.verdict.printk import without_control_codes

_Command = TypeVar("_Command", bound=Callable[..., Any])


def complete_vm(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The VMs whose names begin so, for a shell; their recipes are not read."""
    return [name for name in files_by_name() if name.startswith(incomplete)]


def vms_option(text: str, *, required: bool = False) -> Callable[[_Command], _Command]:
    """Return the option --vm, which may be repeated; `text` is its help."""
    return click.option(
        "--vm", "vms", required=required, multiple=True, metavar="NAME", shell_complete=complete_vm, help=text
    )


def _use_own_tree(_context: click.Context, _parameter: click.Parameter, directory: Path | None) -> None:
    if directory is not None:
        use_own_tree(directory)


_PATH = click.Path(path_type=Path)
# It has no value in the command: the recipes, modules and cases are there once the option is read.
project_option = click.option(
    "--project",
    type=_PATH,
    metavar="DIR",
    is_eager=True,
    expose_value=False,
    callback=_use_own_tree,
    help="Add your own vm_images/, probes/ and cases/ in DIR to ours: docs/your-own-tree.md.",
)

VMS = vms_option("A VM; repeat for more. All core VMs without it.")
ARCHS = click.option(
    "--arch", "archs", multiple=True, metavar="NAME", help="Every VM of an architecture; repeat for more."
)
MATRIX = click.option(
    "--matrix", type=click.Choice(["core", "full"]), help="The core VMs, or all. The default is core."
)


def vms_unless_others_are_named(vms: Sequence[str], *, others: bool) -> Sequence[str]:
    """Return the names of --vm; none if they are the configuration file's and `others` are named in their place."""
    from_file = click.get_current_context().get_parameter_source("vms") is ParameterSource.DEFAULT_MAP
    return () if from_file and others else vms


_KERNEL_HELP = (
    "A kernel of your own: a source tree, a build directory, .deb or .rpm files, or an image, its modules and headers; "
    "repeat for more than one file."
)


def kernel_options(command: _Command) -> _Command:
    """Add --kernel and --config to a command."""
    config = click.option("--config", type=_PATH, metavar="FILE", help="With a source tree: its whole .config.")
    kernel = click.option("--kernel", "kernels", multiple=True, type=_PATH, metavar="WHAT", help=_KERNEL_HELP)
    return kernel(config(command))


def example_epilog(arguments: str) -> str:
    """Return the last line of a command's help."""
    return f"Example: {paths.PROGRAM} {arguments}"


def print_error(error: PinpointError, about: str = "") -> None:
    """Print one line; for a failed build, first the end of its log."""
    if isinstance(error, BuildError):
        for line in error.last_lines():
            click.echo(f"    {without_control_codes(line)}", err=True)
        if error.log:
            click.echo(f"    (the whole log: {error.log})", err=True)
    click.echo(
        one_line_without_control_codes(": ".join(part for part in ("pinpoint", about, str(error)) if part)), err=True
    )


def one_line_without_control_codes(text: str) -> str:
    """Return the text on one line and without control codes: names in it may come from untrusted files."""
    return " ".join(part for line in without_control_codes(text).splitlines() if (part := line.strip()))
