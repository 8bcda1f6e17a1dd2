"""The command line, started by `./pinpoint`.

A command's module is imported only when the command is used, because importing all of them takes half a second.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from harness import doctor as host
from harness import user_config
from harness.cli_common import one_line_without_control_codes, print_error
from harness.core import error_handover, exception_as_pinpoint_error, paths, private_files, process
from harness.core.errors import HARNESS_FAILED, INTERRUPTED, WRONG_USE, PinpointError

_PROGRAM = paths.PROGRAM
# Set by the completion scripts of shells (harness/cli_completion_and_man.py).
_COMPLETE = "_PINPOINT_COMPLETE"
# Each command's module in harness and its function there.
_COMMANDS = {
    "bench": ("cli_bench", "bench"),
    "bisect": ("cli_bisect", "bisect"),
    "build": ("cli_images", "build"),
    "check": ("cli_lint_and_unit_tests", "check"),
    "compare": ("cli_reports", "compare"),
    "completion": ("cli_completion_and_man", "completion"),
    "export": ("cli_reports", "export"),
    "history": ("cli_reports", "history"),
    "gc": ("cli_gc", "gc"),
    "kbuild-dir": ("cli_images", "kbuild_dir"),
    "list": ("cli_images", "list_"),
    "man": ("cli_completion_and_man", "man"),
    "matrix": ("cli_reports", "matrix"),
    "merge": ("cli_reports", "merge"),
    "report": ("cli_reports", "report"),
    "repro": ("cli_shell_and_repro", "repro"),
    "run": ("cli_runs", "run"),
    "scheduler": ("cli_worker", "scheduler"),
    "shell": ("cli_shell_and_repro", "shell"),
    "sites": ("cli_sites", "list_probeable_offsets"),
    "store": ("cli_store", "store"),
    "test": ("cli_runs", "run_ci_tests"),
    "verify": ("cli_verify", "verify_foreign_probes"),
    "worker": ("cli_worker", "worker"),
}


# Commands that other processes of Pinpoint use, and no person; no list has them.
_INTERNAL = {"shard": ("cli_shard", "shard"), "ssh-worker": ("cli_worker", "ssh_worker_of_run")}


class _Commands(click.Group):
    """Imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name."""
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command with that name, or None if there is none."""
        commands = {**_COMMANDS, **_INTERNAL}
        if cmd_name not in commands:
            return super().get_command(ctx, cmd_name)
        module, name = commands[cmd_name]
        command: click.Command = getattr(import_module(f"harness.{module}"), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name, with the first line of its docstring, without importing any command."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=_first_line(name)) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]


def _first_line(command: str) -> str:
    """The first line of the docstring of a command's function, read from its file."""
    module, name = _COMMANDS.get(command, ("cli", command))
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_bytes())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Boots real kernels and proves that kprobes land at symbol + offset."""


@cli.command(epilog=f"Example: {_PROGRAM} doctor")
def doctor() -> int:
    """Check the host: every requirement with its version, or the package to install."""
    return host.main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Each error is printed as one line; status 1 means a failed cell."""
    # No child may import from the current directory.
    os.environ["PYTHONSAFEPATH"] = "1"
    private_files.keep_files_private()
    error_file = error_handover.take_file_from_environment()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    try:
        if instruction := os.environ.get(_COMPLETE):
            from harness.cli_completion_and_man import answer_completion_request

            return answer_completion_request(cli, instruction)
        words = sys.argv[1:] if arguments is None else list(arguments)
        return int(
            cli.main(
                args=words,
                standalone_mode=False,
                prog_name=_PROGRAM,
                default_map=user_config.read().set_environment_and_get_defaults(),
            )
            or 0
        )
    except click.ClickException as error:
        click.echo(one_line_without_control_codes(f"pinpoint: {error.format_message()} See {_PROGRAM} -h."), err=True)
        return WRONG_USE
    except (click.Abort, KeyboardInterrupt):
        process.stop_all()
        return INTERRUPTED
    except PinpointError as error:
        print_error(error)
        error_handover.hand_over(error, error_file)
        return error.exit_status
    except (BrokenPipeError, SystemExit):
        # click exits with 1 when its output pipe is closed.
        # Output left in the buffer must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HARNESS_FAILED
    except Exception as error:
        process.stop_all()
        found = exception_as_pinpoint_error.as_pinpoint_error(error)
        print_error(found)
        error_handover.hand_over(found, error_file)
        return found.exit_status


if __name__ == "__main__":
    sys.exit(main())
