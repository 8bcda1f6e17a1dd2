"""Every command in the docs is one that the command line accepts, and every -k expression selects a case.

Checked are the name of the command, its options, the VMs that it names, and the words of -k. Nothing is run here. The
commands of the pages for three readers are run by tests/readers, which must know each of them.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import shlex
from collections.abc import Iterator

import click
import pytest
from _pytest.mark.expression import Expression
from docs_pages import PAGES, blocks, code_lines
from page_commands import COMMANDS

from harness import cli
from harness.core import paths
from harness.images import recipe_files
from harness.run_options import OPTIONS

# Pages for a reader with one task: each must have commands and be in the index.
TASKS = ("gate-a-kernel.md", "check-a-probe-module.md", "hunt-a-relocation-bug.md", "sites.md")
# Words that stand for something, as in a synopsis.
_SYNOPSIS = re.compile(r"[\[\]|]|^\.\.\.$")
_PLACEHOLDERS = {"NAME", "VM", "V"}
_OF_PYTEST = {"-k", "-m", "-n", "-x", "-s", "--co", "--lf", "--junitxml", "--fuzz", "--pictures", "--full", "--ktap"}
# What follows a command in an indented block: its description.
_REST = re.compile(r"\s{3,}")
_KEYWORDS = re.compile(r"""(?<![\w-])-k (?:"([^"]+)"|'([^']+)'|([\w:-]+))""")
_WORD = re.compile(r"[^\s()]+")
# A command after other words in a line of a block: lines that were joined.
_JOINED = re.compile(r"^(?:\./pinpoint|\w+) .* \./pinpoint \w+ -")


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of each command of a page, without `./pinpoint`."""
    for line in code_lines(page):
        if line.startswith("./pinpoint "):
            split = shlex.split(_REST.split(line)[0], comments=True)
            words = list(itertools.takewhile(lambda word: word != "|" and not word.startswith(">"), split))
            if not any(_SYNOPSIS.search(word) for word in words):
                yield ["x86_64-debian" if word in _PLACEHOLDERS else word for word in words[1:]]


def refusal(words: list[str]) -> str:
    """Return why the command line does not accept these words, or ""."""
    command = cli.cli.get_command(click.Context(cli.cli), words[0])
    if command is None:
        return f"there is no command {words[0]}"
    if words[0] == "doctor":  # The launcher reads --vm and passes nothing on.
        words = ["build", *words[1:]]
        command = cli.cli.get_command(click.Context(cli.cli), "build")
        assert command is not None
    if "--project" in words:  # Its directory is the reader's.
        at = words.index("--project")
        words = [*words[:at], *words[at + 2 :]]
    try:
        context = command.make_context(words[0], words[1:])
    except click.MissingParameter:
        return ""  # In a sentence, a command can be named without its arguments.
    except click.UsageError as error:
        return error.format_message()
    vms = {*context.params.get("vms", ()), *filter(None, [context.params.get("vm")])}
    if not vms <= set(recipe_files.files_by_name()):
        return f"there is no VM {vms - set(recipe_files.files_by_name())}"
    # An option that click passes on must be one that pytest or its plugin has.
    passed_on = context.params.get("pytest_arguments", ())
    unknown = {word.partition("=")[0] for word in passed_on if word.startswith("-")} - OPTIONS.keys() - _OF_PYTEST
    return f"there is no option {unknown}" if unknown else ""


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_parsed(page: str) -> None:
    wrong = [f"{' '.join(words)}: {why}" for words in commands(page) if (why := refusal(words))]
    assert not wrong, "\n".join(wrong)


def test_each_reader_has_a_page() -> None:
    index = (paths.PROJECT / "README.md").read_text()
    for name in TASKS:
        assert list(commands(f"docs/{name}")), name
        assert f"docs/{name}" in index, name


@pytest.mark.parametrize("page", COMMANDS)
def test_each_command_of_a_readers_page_is_run_by_the_suite(page: str) -> None:
    lines = [line for kind, block in blocks(page) if kind == "code" for line in block.splitlines()]
    found = [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith(("./pinpoint ", "touch "))]
    assert found == [command.line for command in COMMANDS[page]]


@functools.cache
def cells() -> list[set[str]]:
    """Return the words that -k can match in each case, with one more set for each mutant that it names.

    The words are those that pytest takes: names of the file, the function, its markers and its parameters. A parameter
    is any constant of a decorator, or of the file.
    """
    found = []
    examples = paths.PROJECT / "docs" / "example-tree" / "cases"
    for path in sorted([*paths.CASES.glob("test_*.py"), *examples.glob("test_*.py")]):
        tree = ast.parse(path.read_text())
        of_file = {word for node in tree.body if isinstance(node, ast.Assign) for word in _constants(node)}
        for case in tree.body:
            if isinstance(case, ast.FunctionDef) and case.name.startswith("test_"):
                marks = [ast.unparse(each) for each in case.decorator_list]
                words = {path.name, case.name, *of_file, *recipe_files.files_by_name()}
                words |= {word for each in case.decorator_list for word in _constants(each)}
                words |= {mark.removeprefix("pytest.mark.").partition("(")[0] for mark in marks}
                mutants = [each for each in case.decorator_list if "mark.mutants" in ast.unparse(each)]
                found += [words, *({*words, f"mutant:{name}"} for each in mutants for name in _constants(each))]
    return found


def _constants(node: ast.AST) -> Iterator[str]:
    yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


def _matches(word: str, words: set[str]) -> bool:
    """Return True if `word` is in one of the words, or consists of two of them, as in an id with two parameters."""
    low = {each.lower() for each in words}
    first, _, second = word.lower().rpartition("-")
    return any(word.lower() in each for each in low) or (first in low and second in low)


def why_it_selects_nothing(expression: str) -> str:
    """Return which word of a -k expression matches no cell, or that the whole selects none, or ""."""
    for word in _WORD.findall(expression):
        if word not in ("and", "or", "not") and not any(_matches(word, cell) for cell in cells()):
            return f"-k {expression!r}: no cell has {word!r}"
    compiled = Expression.compile(expression)
    selected = any(compiled.evaluate(lambda word, /, **_: _matches(word, cell)) for cell in cells())  # noqa: B023
    return "" if selected else f"-k {expression!r} selects no cell"


@pytest.mark.parametrize("page", PAGES)
def test_each_selection_of_a_page_selects_a_cell(page: str) -> None:
    found = {next(filter(None, groups)) for line in code_lines(page) for groups in _KEYWORDS.findall(line)}
    wrong = [why for text in sorted(found - {"EXPR", "CASE"}) if (why := why_it_selects_nothing(text))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "expression",
    ["test_probe_lands or test_refusals", "stubs or relocation", "test_kprobe_anywhere", "test_stubs and test_sites"],
)
def test_a_selection_of_nothing_is_found(expression: str) -> None:
    assert why_it_selects_nothing(expression)


@pytest.mark.parametrize("words", [["run", "--no-such-option"], ["runs"], ["build", "--vm", "vax"], ["gc", "--young"]])
def test_a_wrong_command_is_found(words: list[str]) -> None:
    assert refusal(words)


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_commands_are_not_joined(page: str) -> None:
    lines = [line.strip() for kind, block in blocks(page) if kind == "code" for line in block.splitlines()]
    joined = [line for line in lines if _JOINED.search(line)]
    assert joined == []
