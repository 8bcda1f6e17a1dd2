"""Shared parts of the commands: the --vm option, examples in the help, and the report of an error."""

from __future__ import annotations

import click

from harness.core.errors import BuildError, PinpointError
from harness.verdict.printk import without_control_codes

VMS = click.option("--vm", "vms", multiple=True, metavar="NAME", help="A VM; repeat for more. All core VMs without it.")


def example(arguments: str) -> str:
    """Return the last line of a command's help."""
    return f"Example: ./pinpoint {arguments}"


def print_error(error: PinpointError, about: str = "") -> None:
    """Print one line; for a failed build, first the end of its log."""
    if isinstance(error, BuildError):
        for line in error.last_lines():
            click.echo(f"    {without_control_codes(line)}", err=True)
        if error.log:
            click.echo(f"    (the whole log: {error.log})", err=True)
    click.echo(one_line(": ".join(part for part in ("pinpoint", about, str(error)) if part)), err=True)


def one_line(text: str) -> str:
    """Return the text on one line and without control codes: names in it may come from untrusted files."""
    return " ".join(part for line in without_control_codes(text).splitlines() if (part := line.strip()))
