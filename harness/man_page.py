"""The manual page in man(7) macros, from click's commands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from harness.core import paths

_EPILOGUE = """
.SH EXIT STATUS
.TP
.B 0
All cells held.
.TP
.B 1
A cell failed or did not run.
.TP
.B 2
Wrong use, or a broken recipe or configuration file.
.TP
.B 3
The harness or the host failed.
.SH ENVIRONMENT
.TP
.B PINPOINT_CACHE
The directory of built images and of Python's environment.
.TP
.B PINPOINT_RESULTS
The directory of results.
.TP
.B PINPOINT_MIRROR
A Debian mirror, on hosts that are not Debian.
.TP
.B PINPOINT_NO_INSTALL
Install no host packages.
.TP
.B NO_COLOR
Print without colors.
.SH FILES
.TP
.I ~/.config/pinpoint.toml
Default VMs, accelerator, mirror and cache.
"""


def man_page(root: click.Context) -> str:
    """The page of the group `root` is the context of: each command with its usage, help and options."""
    group = root.command
    assert isinstance(group, click.Group)
    lines = [
        ".TH PINPOINT 1",
        ".SH NAME",
        f"pinpoint \\- {_text(_first(group.help))}",
        ".SH SYNOPSIS",
        f".B {paths.PROGRAM}",
        ".I COMMAND",
        "[\\fIARGUMENT\\fR ...]",
        ".SH COMMANDS",
    ]
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root)
        lines += _command(command, context)
        if isinstance(command, click.Group):
            for part in command.list_commands(context):
                inner = command.get_command(context, part)
                assert inner is not None
                lines += _command(inner, click.Context(inner, info_name=f"{name} {part}", parent=root))
    return "\n".join(lines) + _EPILOGUE


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_text(str(context.info_name))} {_text(usage)}"
    for number, paragraph in enumerate(_paragraphs(command.help)):
        yield from ([".PP"] if number else [])
        yield paragraph
    for names, description in _options(command, context):
        yield from (".TP", f".B {_text(names)}", _text(description))
    for paragraph in _paragraphs(command.epilog):
        yield from (".PP", paragraph)


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Every option with its help: those that click parses, and those that a command only lists."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            yield record
    listed = getattr(command, "listed_options", None)
    yield from listed() if listed else ()


def _paragraphs(text: str | None) -> list[str]:
    cleaned = re.sub(r"[ \t]+", " ", (text or "").replace("\b", "")).strip()
    return [_text(" ".join(part.split())) for part in re.split(r"\n\s*\n", cleaned) if part.strip()]


def _first(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _text(text: str) -> str:
    """Text that roff prints as it is: no line of it is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("\n", " ")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
