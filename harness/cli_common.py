"""What commands share: an option, and how an error is told."""

from __future__ import annotations

import click

from harness.core.errors import BuildError, PinpointError
from harness.verdict.printk import plain

VMS = click.option("--vm", "vms", multiple=True, metavar="NAME", help="A VM; again for more. All core VMs without it.")


def tell(error: PinpointError, about: str = "") -> None:
    """One line; for a failed build the end of its log before it."""
    if isinstance(error, BuildError):
        for line in error.last_lines():
            click.echo(f"    {plain(line)}", err=True)
        if error.log:
            click.echo(f"    (the whole log: {error.log})", err=True)
    click.echo(plain(": ".join(part for part in ("pinpoint", about, str(error)) if part)), err=True)
