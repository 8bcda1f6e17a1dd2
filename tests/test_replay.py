"""`./pinpoint repro` replays the right cell and exits with the right output and status. No guest boots."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pytest

from harness import cli, cli_shell_and_repro
from harness.core import paths
from harness.core.files import sha256
from harness.matrix.commands import replay
from harness.report import bundle
from harness.report.bundle import BundleDescription
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict

FILE = "cases/test_sites.py"
ITEM = "test_kernel_function[parisc-mutant:one-instruction-off-exported]"
REASON = "hex2bin+0x4 at 0xffffffff81000004 missed"


def cell(verdict: Verdict = Verdict.FAIL, reason: str = REASON) -> Cell:
    facts: dict[str, Any] = {
        "seconds": 1.5,
        "kernel_release": "6.1",
        "arch": "parisc",
        "accelerator": "tcg",
        "traits": {},
        "image_key": "0123",
        "witnesses": [],
        "mutant": "one-instruction-off",
        "bundle": "",
    }
    return Cell(file=FILE, case="test_kernel_function[exported]", vm="parisc", verdict=verdict, reason=reason, **facts)


SAME = (Verdict.FAIL, REASON.replace("81000004", "93000004"))
OTHER = (Verdict.PANIC, "Kernel panic - not syncing\x1b[2J")
HELD = (Verdict.PASS, "")


class Runs:
    """Stands in for pytest runs: each ends as configured, and its arguments are recorded."""

    def __init__(self, *outcomes: tuple[Verdict, str]) -> None:
        self._outcomes = list(outcomes)
        self.arguments: list[list[str]] = []

    def __call__(self, arguments: Sequence[str], plugins: Sequence[Any]) -> int:
        self.arguments.append(list(arguments))
        if not self._outcomes:
            return 2
        verdict, reason = self._outcomes.pop(0)
        for kept in (cell().model_copy(update={"mutant": "another"}), cell(verdict, reason)):
            report = pytest.TestReport("x", ("x", 0, "x"), {}, "passed", None, "teardown")
            report.pinpoint_cell = kept.model_dump(mode="json")  # type: ignore[attr-defined]
            for plugin in plugins:
                plugin.pytest_runtest_logreport(report)
        return {Verdict.PASS: 0, Verdict.HARNESS_ERROR: 3}.get(verdict, 1)


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a bundle of this project and its image."""
    monkeypatch.setattr(replay, "image_key", lambda *_: "0123")

    def write(
        schedule: str = "", file: str = FILE, changed: bool = False, frozen: str = "", option: str = "--stress=7"
    ) -> Path:
        digest = "0" * 64 if changed else sha256(paths.PROJECT / FILE)
        reported: dict[str, Any] = {"file": file, "items": [ITEM], "options": [option], "hashes": {FILE: digest}}
        about = BundleDescription(cell=cell(), schedule=schedule, frozen=frozen, **reported)
        return bundle.write_bundle(tmp_path, about, {"console.log": b""})

    return write


def repro(monkeypatch: pytest.MonkeyPatch, runs: Runs, *words: str) -> int:
    monkeypatch.setattr(replay.pytest_run, "run", runs)
    return cli.main(["repro", *words])


@pytest.mark.parametrize(
    ("outcomes", "status", "reported"),
    [
        ([SAME], 1, ["1 of 1: failed the same way"]),
        ([HELD], 0, ["1 of 1: pass: it did not fail"]),
        ([OTHER], 1, ["1 of 1: failed another way: panic: Kernel panic - not syncing"]),
        ([(Verdict.HARNESS_ERROR, "no mirror")], 3, ["1 of 1: failed another way: harness-error: no mirror"]),
        ([SAME, HELD, SAME], 1, ["2 of 3: failed the same way", "1 of 3: pass: it did not fail"]),
    ],
    ids=["same", "held", "other", "ours", "sometimes"],
)
def test_it_prints_how_often_it_failed_the_same_way(
    left: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcomes: list[tuple[Verdict, str]],
    status: int,
    reported: list[str],
) -> None:
    assert repro(monkeypatch, Runs(*outcomes), str(left()), "--times", str(len(outcomes))) == status
    output = capsys.readouterr().out
    assert output.splitlines()[-len(reported) :] == reported
    assert "\x1b" not in output


def test_exactly_that_cell_is_replayed_as_it_was_run(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(SAME)
    repro(monkeypatch, runs, str(left(schedule="open read remove")))
    (words,) = runs.arguments
    assert {"--vm=parisc", "--stress=7", "--schedule=open read remove"} <= set(words)
    assert words[-1] == f"{paths.PROJECT / FILE}::{ITEM}"
    # The run that wrote the bundle stays the latest.
    assert f"--into={paths.results() / 'replays'}" in words


@pytest.mark.parametrize("way", ["shell", "gdb"])
def test_a_person_is_let_in_at_the_failure(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(cli_shell_and_repro.run_gdb_on_guest, "find_gdb", lambda _: "gdb")
    runs = Runs(SAME)
    assert repro(monkeypatch, runs, str(left()), f"--{way}") == 1
    assert {f"--at-failure={way}", "-s"} <= set(runs.arguments[0])


def test_gdb_that_is_not_there_is_one_line_before_anything_runs(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    runs = Runs(SAME)
    assert repro(monkeypatch, runs, str(left()), "--gdb") == 3
    assert cli.main(["shell", "--vm", "parisc", "--gdb"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["pinpoint: no gdb for parisc is installed; install the package gdb-multiarch"] * 2
    assert runs.arguments == []


def test_wrong_use_is_one_line(
    left: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    runs = Runs(SAME)
    place = str(left())
    elsewhere = str(left(file="cases/test_gone.py"))
    outside = tmp_path / "test_outside.py"
    outside.touch()
    beyond = str(left(file=os.path.relpath(outside, paths.PROJECT)))
    hostile = str(left(option="-pevil"))
    cut = left() / "bundle.json"
    cut.write_text(cut.read_text()[:100])
    for words, wrong in (
        ([str(tmp_path / "nowhere")], "is not there"),
        ([str(tmp_path)], "has no bundle.json"),
        ([elsewhere], "cases/test_gone.py: is no case of this version of Pinpoint"),
        ([beyond], "test_outside.py: is no case of this version of Pinpoint"),
        ([hostile], "the bundle has an option that no run records: '-pevil'"),
        ([str(cut.parent)], "bundle.json is damaged"),
        ([place, "--times", "0"], "--times"),
        ([place, "--times", "2", "--shell"], "--shell is for one replay"),
    ):
        assert repro(monkeypatch, runs, *words) == 2
        reported = capsys.readouterr()
        assert wrong in reported.err
        assert (reported.out, reported.err.count("\n")) == ("", 1)
    assert runs.arguments == []


def test_another_image_is_replayed_only_when_that_is_wanted(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(left())
    monkeypatch.setattr(replay, "image_key", lambda *_: "4567")
    assert repro(monkeypatch, Runs(SAME), place) == 2
    assert capsys.readouterr().err == (
        "pinpoint: parisc: the bundle is of image 0123, this version of Pinpoint makes 4567; "
        "use the version it was made with, or --anyway\n"
    )
    assert repro(monkeypatch, Runs(SAME), place, "--anyway") == 1


def test_a_case_that_has_changed_is_reported(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repro(monkeypatch, Runs(SAME), str(left(changed=True)))
    assert f"{FILE} has changed since" in capsys.readouterr().err
    repro(monkeypatch, Runs(SAME), str(left()))
    assert "changed" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_frozen_guest_missing_in_the_store_is_reported(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path))
    place = left(frozen="frozen-0123")
    assert "thawed from `frozen-0123`" in (place / "README.md").read_text()
    repro(monkeypatch, Runs(SAME), str(place))
    assert "frozen-0123 is no longer in the store: guests start from another boot" in capsys.readouterr().err
    (tmp_path / "store" / "frozen-0123").mkdir(parents=True)
    repro(monkeypatch, Runs(SAME), str(place))
    assert "frozen-0123" not in capsys.readouterr().err


def test_a_replay_that_cannot_run_ends_with_its_status(
    left: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repro(monkeypatch, Runs(), str(left()), "--times", "5") == 2


FOREGROUND = """
import sys
from harness.core import process
print("status", process.run_foreground([sys.executable, "-c", "import sys; input(); sys.exit(5)"]))
"""


def test_a_program_in_the_foreground_has_the_terminal_and_ctrl_c_is_its_own() -> None:
    env = {**os.environ, "PYTHONPATH": str(paths.PROJECT)}
    child = pexpect.spawn(sys.executable, ["-c", FOREGROUND], env=env, timeout=60, encoding="utf-8")
    child.sendline("")
    child.expect("status 5")
    child.close()
    waits = FOREGROUND.replace("input()", "print('on'); input()")
    child = pexpect.spawn(sys.executable, ["-c", waits], env=env, timeout=60)
    child.expect("on")
    child.sendintr()
    child.expect(rf"status -{signal.SIGINT.value}|status 1")
    child.close()


def test_a_program_in_the_foreground_dies_with_us(tmp_path: Path) -> None:
    reported = tmp_path / "pid"
    script = (
        f"from harness.core import process\nprocess.run_foreground(['sh', '-c', 'echo $$ >{reported}; exec sleep 60'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(paths.PROJECT)})
    while not (reported.exists() and reported.read_text().strip()):
        assert parent.poll() is None
    child = os.pidfd_open(int(reported.read_text()))
    parent.kill()
    parent.wait()
    assert select.select([child], [], [], 60.0)[0], "it lives on"
    os.close(child)
