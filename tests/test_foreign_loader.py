"""--loader: which commands are accepted, what a foreign loader is given, and which cells it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import cli_runs
from harness.core import paths
from harness.core.errors import UsageError
from harness.images.vm_recipe import Recipe, select
from harness.landing.landing_judgment import Missed
from harness.matrix.cells import selection
from harness.matrix.cells.selection import CellId
from harness.matrix.commands.replay_options import first_unrecorded_option
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.pinning.foreign_loader import (
    ForeignLoader,
    ForeignResult,
    TargetAddresses,
    probe_parameters_except_handles,
)
from harness.pinning.loader import LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import expect_result
from harness.pinning.mutants import MUTANTS

SCRIPTS = paths.CASES / "foreign_loaders"


def recipe(name: str = "x86_64-debian") -> Recipe:
    return select([name])[0]


@pytest.fixture
def userland(tmp_path: Path) -> Path:
    """A guest's tree with a shell and insmod: links, as busybox's applets are."""
    root = tmp_path / "root"
    for place, name in (("bin", "sh"), ("sbin", "insmod")):
        (root / place).mkdir(parents=True)
        (root / place / name).symlink_to("/bin/busybox")
    return root


def script(tmp_path: Path, text: str, name: str = "loader") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(text: str, userland: Path, vm: str = "x86_64-debian") -> str:
    with pytest.raises(UsageError) as caught:
        ForeignLoaderProgramAndArguments.parse_command_line(text).demand_runs_on_vm(recipe(vm), lambda _: userland)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_program_of_the_guest(userland: Path) -> None:
    command = ForeignLoaderProgramAndArguments.parse_command_line("insmod -f 'a b'")
    assert command == ForeignLoaderProgramAndArguments("insmod", ("-f", "a b"))
    assert command.loader_option_value == command.shown == "insmod -f 'a b'"
    assert command.program_in_guest == "insmod"
    command.demand_runs_on_vm(recipe(), lambda _: userland)


def test_a_file_of_the_host(tmp_path: Path, userland: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(tmp_path, "#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)
    command = ForeignLoaderProgramAndArguments.parse_command_line("./loader --fast")
    assert command == ForeignLoaderProgramAndArguments(str(path), ("--fast",), path)
    assert command.loader_option_value == f"{path} --fast"
    assert (command.shown, command.program_in_guest) == ("loader --fast", "/tmp/pinpoint-foreign-loader")
    command.demand_runs_on_vm(recipe(), lambda _: userland)


def test_commands_that_cannot_be_run(tmp_path: Path, userland: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(str(missing), userland).startswith(f"--loader: {missing} does not exist; name a program")
    assert "is not a file" in refusal(str(tmp_path), userland)
    assert "divided into words: No closing quotation" in refusal("'x", userland)
    assert "the command is empty" in refusal(" ", userland)
    assert "staprun is not a program of the guest; for a file of this host, write its path: ./staprun" in refusal(
        "staprun", userland
    )
    assert "loader needs /bin/bash, which the guest does not have" in refusal(
        str(script(tmp_path, "#! /bin/bash -e\n")), userland
    )
    assert "neither a program nor a script" in refusal(str(script(tmp_path, "insmod $1\n")), userland)
    assert "neither a program nor a script" in refusal(str(script(tmp_path, "")), userland)
    assert "is a damaged program" in refusal(str(script(tmp_path, "\x7fELF")), userland)


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no compiler")
def test_a_program_must_be_static_and_for_the_guest(tmp_path: Path, userland: Path) -> None:
    source = script(tmp_path, "int main(void) { return 0; }\n", "main.c")
    vm = {"x86_64": "x86_64-debian", "aarch64": "arm64-debian"}[os.uname().machine]
    other = "parisc"
    for name, flags in (("static", ["-static"]), ("dynamic", [])):
        subprocess.run(["gcc", *flags, "-o", tmp_path / name, source], check=True)
    ForeignLoaderProgramAndArguments.parse_command_line(str(tmp_path / "static")).demand_runs_on_vm(
        recipe(vm), lambda _: userland
    )
    assert "dynamically linked" in refusal(str(tmp_path / "dynamic"), userland, vm)
    assert "EM_PARISC" in refusal(str(tmp_path / "static"), userland, other)


def test_a_run_with_a_loader_that_does_not_exist_ends_before_anything_boots(tmp_path: Path) -> None:
    environment = {**os.environ, "PINPOINT_RESULTS": str(tmp_path), "PYTHONPATH": str(paths.PROJECT)}
    words = ["run", "--vm", "x86_64-debian", "--loader", "./no-such-loader", "-n", "0", "-k", "test_probe_lands"]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert "--loader: ./no-such-loader does not exist" in line


def test_a_loader_of_the_project_names_no_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli_runs.pytest_run, "run", lambda arguments, **_: seen.append(list(arguments)) or 0)
    loader = SCRIPTS / "careful.sh"
    words = ["--vm", "x86_64-debian", "--loader", os.path.relpath(loader), "-n", "0"]
    cli_runs.run.main(words, standalone_mode=False)
    assert seen == [["--vm=x86_64-debian", f"--loader={loader}", "-n", "0", str(paths.CASES)]]


def test_the_parameters_are_all_but_the_addresses() -> None:
    facts = [TargetAddresses("a", 0x10, 0x1000, 0), TargetAddresses("b", 0x20, 0x2000, 0x2010)]
    order = LoaderOrder(targets=["a", "b"], sections=[("a", ".text")], parameters=["site=0+0x4"], gates=["load"])
    assert probe_parameters_except_handles(order, facts, [0x1040]) == [
        "module_names=a,b",
        "module_bases=0x1000,0x2000",
        "module_notes=0x0,0x2010",
        "section_addresses=0x1040",
        "site=0+0x4",
        "gates=entered",
    ]
    assert probe_parameters_except_handles(LoaderOrder(), [], []) == []


@pytest.mark.parametrize(
    "order",
    [
        LoaderOrder(gates=["read"]),
        LoaderOrder(load_from_memory=True),
        LoaderOrder(hold_until_removed=True),
        LoaderOrder(user_id=1),
        LoaderOrder(mutant="swaps-handles"),
    ],
)
def test_an_order_that_only_our_loader_can_follow(order: LoaderOrder) -> None:
    with pytest.raises(ValueError, match="only Pinpoint's loader can follow this order"):
        ForeignLoader(cast(Any, None), order, ForeignLoaderProgramAndArguments("insmod"))


def test_only_success_or_failure_counts() -> None:
    good = ForeignResult(LoaderExitStatus.DONE, (), "mine", 0, "", ())
    bad = ForeignResult(LoaderExitStatus.FOREIGN, (), "mine", 7, "no such module", None)
    expect_result(good, LoaderExitStatus.DONE)
    expect_result(bad, LoaderExitStatus.STALE, "ENODEV")
    with pytest.raises(Missed, match="`mine` exited with 7: no such module, not 0"):
        expect_result(bad, LoaderExitStatus.DONE)
    with pytest.raises(Missed, match="exited with 0; in the load it held nothing, not a failure, as ours does with"):
        expect_result(good, LoaderExitStatus.STALE, "ENODEV")


class Item:
    """A pytest item, as far as the selection looks at it."""

    def __init__(self, fixtures: tuple[str, ...], reason: str = "", mutant: str = "") -> None:
        self.fixturenames = fixtures
        self.name = "test_case[a-vm]"
        self.path = paths.CASES / "test_case.py"
        self.config = SimpleNamespace(rootpath=paths.PROJECT, option=SimpleNamespace(loader="my 'loader"))
        self.callspec = SimpleNamespace(params={"vm": "a-vm", "mutant": mutant})
        self._marker = SimpleNamespace(args=(reason,)) if reason else None
        self.skips: list[str] = []

    def get_closest_marker(self, _name: str) -> SimpleNamespace | None:
        return self._marker

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.skips.append(marker.kwargs["reason"])


def test_only_cases_of_loaders_run_and_those_of_ours_are_skipped_with_the_reason() -> None:
    items = [
        Item(("guest", "kprobes")),
        Item(("probe_loaders",)),
        Item(("probe_loaders",), reason="it has gates"),
        Item(("probe_loaders",), mutant="swaps-handles"),
        Item(("probe_loaders_in",), mutant="no-build-id"),
    ]
    selected = selection.tests_and_loader_cells(cast(list[pytest.Item], items))
    assert cast(list[Item], selected) == items[1:]
    selection.skip_cells_needing_own_loader(selected)
    assert [item.skips for item in items[1:]] == [
        [],
        ["needs Pinpoint's own loader: it has gates"],
        ["the mutant is a defect of Pinpoint's own loader"],
        [],
    ]


def test_mutants_of_our_loader() -> None:
    assert {name for name, mutant in MUTANTS.items() if mutant.breaks_loader} == {
        "closes-early",
        "skips-re-read",
        "accompanied",
        "swaps-handles",
        "wrong-errno",
        "betrayed",
        "other-call",
    }


def test_a_replay_names_the_loader() -> None:
    item = cast(pytest.Item, Item(("probe_loaders",)))
    cell = selection.cell_of(item)
    assert isinstance(cell, CellId)
    assert cell.replay == """./pinpoint run --vm a-vm --loader 'my '"'"'loader' -k 'test_case[a-vm]'"""
    assert first_unrecorded_option(["--loader=/somewhere/a loader"]) == ""
    assert first_unrecorded_option(["--loader=\x1b[2J"]) == "--loader=\x1b[2J"


def test_the_examples_are_scripts_of_the_shell() -> None:
    for name in ("careful.sh", "reads_once.sh"):
        path = SCRIPTS / name
        assert ForeignLoaderProgramAndArguments.parse_command_line(str(path)).host_file == path
        subprocess.run(["sh", "-n", path], check=True)
