"""Shell completion, the manual page, and the user's configuration file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from harness import cli, cli_runs, user_config
from harness.core import paths
from harness.man_page import man_page

Write = Callable[[str], None]


@pytest.mark.slow
def test_bash_completes_commands_options_and_vms() -> None:
    script = """
source <(./pinpoint completion bash)
for line in 'pinpoint rep' 'pinpoint run --vm x86_64-deb' 'pinpoint run --sche' 'pinpoint export --form'; do
    COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    _pinpoint_completion ./pinpoint
    echo "${COMPREPLY[@]}"
done
complete -p pinpoint
"""
    done = subprocess.run(
        ["bash", "-c", script], cwd=paths.PROJECT, capture_output=True, text=True, timeout=300, check=True
    )
    commands, vms, options, form, bound = done.stdout.splitlines()
    assert commands.split() == ["report", "repro"]
    assert {"x86_64-debian", "x86_64-debian-6.12"} <= set(vms.split())
    assert options.split() == ["--schedules", "--schedule", "--scheduler", "--scheduler-tls"]
    assert form.split() == ["--format"]
    assert "_pinpoint_completion" in bound


def test_a_commands_name_is_completed_without_importing_a_command() -> None:
    program = """
import sys
from harness import cli
status = cli.main()
print(sorted(name for name in sys.modules if name.startswith("harness.cli_")), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_PINPOINT_COMPLETE": "zsh_complete", "COMP_WORDS": "pinpoint ", "COMP_CWORD": "1"},
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = done.stdout.splitlines()
    names, helps = lines[1::3], lines[2::3]
    assert names == cli.cli.list_commands(click.Context(cli.cli))
    assert "_" not in helps
    assert helps[names.index("man")] == "Print the manual page, generated from the help of every command."
    assert done.stderr.strip() == "['harness.cli_common', 'harness.cli_completion_and_man']"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_clicks(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_PINPOINT_COMPLETE={shell}_complete" in script


def test_the_manual_has_every_command_and_option() -> None:
    context = click.Context(cli.cli, info_name="pinpoint")
    page = man_page(context)
    plain = page.replace("\\-", "-")
    for name in cli.cli.list_commands(context):
        assert re.search(rf"^\.SS {name} ", plain, re.M), name
        command = cli.cli.get_command(context, name)
        assert command is not None
        for option in (
            word
            for parameter in command.params
            for word in parameter.opts
            if word.startswith("--") and not getattr(parameter, "hidden", False)
        ):
            assert option in plain, (name, option)
    assert "--schedules" in plain
    # The commands of a group are listed with it.
    assert re.search(r"^\.SS store import ", plain, re.M)
    assert "--signers" in plain
    # Every request is one that man(7) knows; no line of text begins like one.
    assert {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))} == {
        ".TH",
        ".SH",
        ".SS",
        ".TP",
        ".PP",
        ".B",
        ".I",
    }


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for variable in ("PINPOINT_MIRROR", "PINPOINT_CACHE"):
        # Set first, so that what set_environment_and_get_defaults() sets is taken back.
        monkeypatch.setenv(variable, "")
    return lambda text: (tmp_path / "pinpoint.toml").write_text(text) and None


@pytest.mark.usefixtures("config")
def test_without_a_file_nothing_is_set() -> None:
    assert user_config.read() == user_config.UserConfig()


def test_the_file_sets_defaults_that_the_command_line_and_the_environment_override(
    config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    config('vms = ["parisc"]\naccelerator = "tcg"\nmirror = "file:///mirror"\ncache = "~/elsewhere"\n')
    monkeypatch.setenv("PINPOINT_MIRROR", "file:///other")
    asked: list[list[str]] = []
    monkeypatch.setattr(cli_runs.pytest_run, "run", lambda arguments, **_: asked.append(list(arguments)) or 0)
    for words in (
        ["run"],
        ["run", "--vm", "arm64-debian"],
        ["run", "--arch", "arm64"],
        ["run", "cases/test_sites.py::test_x[parisc]"],
    ):
        assert cli.main(words) == 0
    vms = [[word for word in arguments if word.startswith("--vm=")] for arguments in asked]
    assert vms[:2] == [["--vm=parisc"], ["--vm=arm64-debian"]]
    assert "--vm=parisc" not in [*vms[2], *vms[3]]
    assert all("--accel=tcg" in arguments for arguments in asked)
    assert os.environ["PINPOINT_MIRROR"] == "file:///other"
    assert os.environ["PINPOINT_CACHE"] == str(Path("~/elsewhere").expanduser())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("vms = ['vax']", "`vms`: no VM named 'vax'; one of: "),
        ("vms = 'parisc'", "`vms` is no list of names"),
        ("accelerator = 'hvf'", "`accelerator`: 'hvf'; one of: kvm, tcg"),
        ("mirror = 7", "`mirror` is no text"),
        ("cache = 'here'", "`cache` is no absolute path"),
        ("color = 'red'", "unknown key 'color'; one of: "),
        ("vms = [", "is no TOML: "),
        pytest.param("x = 1\n" * 200_000, "is larger than 1 MiB", id="large"),
        ("\x00", "is no TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(
    config: Write, capsys: pytest.CaptureFixture[str], text: str, line: str
) -> None:
    config(text)
    assert cli.main(["list"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert "pinpoint.toml: " in printed[0]
    assert line in printed[0]


@pytest.mark.usefixtures("config")
def test_a_directory_in_place_of_the_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pinpoint.toml").mkdir()
    assert cli.main(["list"]) == 2
    assert "cannot be read" in capsys.readouterr().err
