"""The recipes for CI systems are valid by the schemas that these systems publish, and their commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import locked_tools
import pytest
from test_docs_commands import refusal

from harness import cli
from harness.core import paths
from harness.core.errors import HostError
from harness.images import prepare
from harness.images.vm_recipe import load_all

RECIPES = paths.PROJECT / "docs" / "ci"


def validate(schema: str, file: Path) -> str:
    """Apply check-jsonschema with a schema that it has from SchemaStore or GitLab; return what is wrong."""
    locked_tools.install()
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def parsed(file: Path) -> Any:  # noqa: ANN401 - what a YAML file has
    locked_tools.install()
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("github.yml", "github-workflows"),
        ("github-kernel.yml", "github-workflows"),
        ("gitlab.yml", "gitlab-ci"),
    ],
)
def test_a_recipe_is_valid(file: str, schema: str, tmp_path: Path) -> None:
    assert validate(schema, RECIPES / file) == ""
    # The validator is in force: a key that the system does not know is found.
    broken = tmp_path / file
    text = (RECIPES / file).read_text()
    broken.write_text(re.sub(r"^(  +)(timeout-minutes|script):", r"\1\2-x:", text, count=1, flags=re.M))
    assert broken.read_text() != text
    assert validate(schema, broken) != ""


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make keys without package lists."""
    monkeypatch.setattr(prepare, "image_key", lambda recipe, _context: f"key-of-{recipe.name}")


@pytest.mark.slow
@pytest.mark.usefixtures("keys")
def test_the_pipeline_for_gitlab_is_valid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["list", "--format", "gitlab", "--vm", "parisc", "--shards", "2"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "pipeline.yml").write_text(text)
    assert validate("gitlab-ci", tmp_path / "pipeline.yml") == ""
    pipeline = json.loads(text)
    assert pipeline["parisc 2/2"]["variables"] == {"VM": "parisc", "SHARD": "2/2"}
    assert pipeline["parisc 2/2"]["cache"]["key"] == "pinpoint-key-of-parisc"
    expected = json.loads(pipeline["merge"]["variables"]["EXPECTED"])["include"]
    assert [each["shard"] for each in expected] == ["1/2", "2/2"]


@pytest.mark.usefixtures("keys")
def test_the_matrix_for_github_has_every_core_vm(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--format", "github"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    jobs = json.loads(printed)["include"]
    assert {job["vm"] for job in jobs} == {each.name for each in load_all().values() if each.tier == "core"}
    assert {job["key"] for job in jobs} == {f"key-of-{job['vm']}" for job in jobs}
    assert all("/" not in job["artifact"] for job in jobs)


def test_a_key_that_cannot_be_computed_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise HostError("cannot fetch package lists")

    monkeypatch.setattr(prepare, "image_key", refuse)
    assert cli.main(["list", "--format", "github"]) == 3
    assert capsys.readouterr().out == ""
    assert cli.main(["list", "--shards", "2"]) == 2


def scripts(value: object) -> Iterator[str]:
    """Yield every line of shell in a recipe."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("run", "script", "after_script") and not isinstance(inner, dict):
                yield from "\n".join(inner if isinstance(inner, list) else [str(inner)]).splitlines()
            yield from scripts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scripts(inner)


def commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each call of ./pinpoint in a line; an expansion stands for a VM, a shard or a file."""
    for call in re.findall(r"\./pinpoint ([^;>|&]*)", line):
        text = re.sub(r"--shard \S*?(\$\{\{[^}]*\}\}|\"?\$\w+\"?)", "--shard 1/2", call)
        text = re.sub(r"--vm (\$\{\{[^}]*\}\}|\"?\$\w+\"?)", "--vm parisc", text)
        yield shlex.split(text)


@pytest.mark.usefixtures("keys")
def test_every_command_of_the_recipes_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--format", "gitlab"]) == 0
    recipes = [parsed(RECIPES / name) for name in ("github.yml", "github-kernel.yml", "gitlab.yml", "tmt/pinpoint.fmf")]
    lines = [line for recipe in (*recipes, json.loads(capsys.readouterr().out)) for line in scripts(recipe)]
    container = (RECIPES / "Containerfile").read_text().replace("\\\n", " ")
    lines += [line for line in container.splitlines() if not line.startswith("#")]
    found = [words for line in lines for words in commands(line)]
    assert {words[0] for words in found} >= {"list", "run", "merge", "store", "export"}
    assert {" ".join(words): refusal(words) for words in found if refusal(words)} == {}


def test_scripts_are_shell() -> None:
    for name in ("github.yml", "github-kernel.yml", "gitlab.yml", "tmt/pinpoint.fmf"):
        text = "\n".join(re.sub(r"\$\{\{[^}]*\}\}", "x", line) for line in scripts(parsed(RECIPES / name)))
        assert text
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
