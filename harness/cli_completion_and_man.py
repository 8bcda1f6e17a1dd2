"""The commands that set up a user's shell and manual: completion, man."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class, shell_complete

from harness.cli_common import example_epilog

# click's scripts call the program by this name, so it must be in PATH for zsh and fish.
PROGRAM = "pinpoint"
VARIABLE = "_PINPOINT_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


@click.command(epilog=example_epilog("completion bash >~/.local/share/bash-completion/completions/pinpoint"))
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the script that completes commands, options and VMs in a shell.

    bash completes `./pinpoint` as well; zsh and fish need `pinpoint` in PATH: ln -s "$PWD/pinpoint" ~/.local/bin/
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
    return 0


def answer_completion_request(cli: click.Command, instruction: str) -> int:
    """Answer a shell's request for completions."""
    return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)


@click.command(epilog=example_epilog("man >pinpoint.1 && man ./pinpoint.1"))
@click.pass_context
def man(ctx: click.Context) -> int:
    """Print the manual page, generated from the help of every command."""
    from harness.man_page import man_page

    click.echo(man_page(ctx.find_root()), nl=False)
    return 0
