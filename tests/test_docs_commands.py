"""Every command in the docs is one that the command line accepts: its name, its options, and the VMs that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from harness import cli
from harness.core import paths
from harness.images import vm_recipe

_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCS = (
    "gate-a-kernel.md",
    "check-a-probe-module.md",
    "hunt-a-relocation-bug.md",
    "sites.md",
    "comparing-runs.md",
    "foreign-loaders.md",
)
# Words in comparing-runs.md that stand for something, as in a synopsis.
_SYNOPSIS = re.compile(r"[\[\]|]")


def commands(name: str) -> list[list[str]]:
    blocks = _FENCE.findall((paths.PROJECT / "docs" / name).read_text())
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("./pinpoint ")]
    return [found[1:] for found in words if not any(_SYNOPSIS.search(word) for word in found)]


ALL = [(name, words) for name in DOCS for words in commands(name)]


@pytest.mark.parametrize(("name", "words"), ALL, ids=[f"{name}: {' '.join(words)[:60]}" for name, words in ALL])
def test_a_command_of_the_docs_is_parsed(name: str, words: list[str]) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), words[0])
    assert command is not None, name
    context = command.make_context(words[0], list(words[1:]))
    vms = [*context.params.get("vms", ()), *filter(None, [context.params.get("vm")])]
    assert set(vms) <= set(vm_recipe.names())
    # An option that click passes on must be one that pytest or its plugin has.
    passed_on = context.params.get("pytest_arguments", ())
    assert {word for word in passed_on if word.startswith("-")} <= {"-k", "-m", "-n", "--deep", "--co", "--loader"}


def test_each_reader_has_a_page() -> None:
    index = (paths.PROJECT / "README.md").read_text()
    for name in DOCS[:4]:
        assert commands(name), name
        assert f"docs/{name}" in index, name
    assert Path(paths.PROJECT / "docs/sites.md").is_file()
