"""A run writes and shows correct results: directory, JSON lines, figures, table, summary, HTML, board."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest

from harness.core import paths
from harness.core.errors import HostError
from harness.core.events import Bus
from harness.report import live_or_plain_progress_board as board_module
from harness.report import run_dir
from harness.report.html import write_report_of_run
from harness.report.live_or_plain_progress_board import Board
from harness.report.metrics_with_goals import Figures, meets_goal
from harness.report.pivot import CaseName, Pivot, format_verdict_counts
from harness.report.record import Cell, CellKey, Results
from harness.report.run_dir import RunDirectory
from harness.report.summary import write_summary
from harness.verdict.cell_verdict_enum import Verdict

FIELDS = [
    *("schema", "file"),
    *("case", "vm", "verdict", "reason", "seconds", "kernel_release", "arch", "accelerator", "qemu"),
    *("traits", "image_key"),
    *("witnesses", "mutant", "bundle", "only_killers"),
]


def cell(case: str, vm: str, verdict: Verdict = Verdict.PASS, **changed: object) -> Cell:
    facts: dict[str, Any] = {
        "file": "cases/test_x.py",
        "reason": "" if verdict is Verdict.PASS else f"why it is {verdict.value}",
        "seconds": 1.25,
        "kernel_release": "6.1.0-32-amd64",
        "arch": "x86_64",
        "accelerator": "tcg",
        "traits": {"kprobes": True, "kaslr": False},
        "image_key": "0123abcd",
        "witnesses": [{"site": "hex2bin+0x4", "reported": "0xffffffff81000004"}],
        "mutant": "",
        "bundle": "",
    }
    return Cell(case=case, vm=vm, verdict=verdict, **{**facts, **changed})


def case(name: str) -> CaseName:
    return CaseName("cases/test_x.py", name)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "results")


def test_latest_points_to_the_newest_run(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path) for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert (tmp_path / "latest").resolve() == runs[-1].path
    assert str((tmp_path / "latest").readlink()) == runs[-1].name
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert runs[0].console_logs_of_vm("parisc") == []


def test_two_runs_that_draw_one_name_have_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["ab12", "ab12", "cd34"])
    monkeypatch.setattr(run_dir.secrets, "token_hex", lambda _: next(drawn))
    monkeypatch.setattr(run_dir, "datetime", SimpleNamespace(now=lambda _: datetime(2026, 11, 30, tzinfo=UTC)))
    names = [RunDirectory.create(tmp_path).name for _ in range(2)]
    assert names == ["20261130-000000-ab12", "20261130-000000-cd34"]


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path, directory: RunDirectory) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="PINPOINT_RESULTS"):
        RunDirectory.create(tmp_path / "file")
    directory.results_file.mkdir()
    with pytest.raises(HostError, match=r"results\.jsonl: cannot be written"):
        Results(directory).write(cell("case", "vm"))


def test_a_guests_words_are_plain_characters_in_the_file(directory: RunDirectory) -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202e\u2028"
    kept = cell("case", "parisc", witnesses=[{"means": hostile}])
    Results(directory).write(kept)
    assert directory.results_file.read_bytes().rstrip(b"\n").decode("ascii").isprintable()
    assert Results(directory).read_cells() == [kept]


def test_a_cell_is_a_line_of_exactly_the_promised_fields(directory: RunDirectory) -> None:
    kept = cell("case", "parisc", Verdict.KNOWN_FAIL)
    Results(directory).write(kept)
    line = json.loads(directory.results_file.read_text())
    assert list(line) == FIELDS
    assert line["verdict"] == "known-fail"
    assert Results(directory).read_cells() == [kept]


def test_a_torn_line_costs_only_itself(directory: RunDirectory) -> None:
    results = Results(directory)
    results.write(cell("first", "vm"))
    whole = directory.results_file.read_bytes()
    for cut in range(1, len(whole) - 1):
        directory.results_file.write_bytes(whole + whole[:cut])
        assert [kept.case for kept in results.read_cells()] == ["first"]


def test_writers_side_by_side_lose_nothing(directory: RunDirectory) -> None:
    long = "x" * 20_000
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Results(directory).write(cell(f"case{n}", "vm", reason=long)), range(64)))
    assert sorted(kept.case for kept in Results(directory).read_cells()) == sorted(f"case{n}" for n in range(64))


@pytest.mark.parametrize(
    ("value", "goal", "holds"),
    [
        (180, "at most 180", True),
        (180.1, "at most 180", False),
        (1501, "at most 1500 with empty caches, 180 after", False),
        (3, "at least 3", True),
        (2.9, "at least 3", False),
        (0, "0", True),
        (1, "0", False),
        (7, "", True),
        (7, "as few as can be", True),
    ],
)
def test_goals(value: float, goal: str, holds: bool) -> None:
    assert meets_goal(value, goal) is holds


def test_figures_are_lines(directory: RunDirectory) -> None:
    figures = Figures(directory)
    figures.add("run.wall_s", 12, "s", goal="at most 10")
    figures.add("mutants.caught", 5, "mutants", vm="parisc", holds=False)
    assert [json.loads(line) for line in directory.figures_file.read_text().splitlines()] == [
        {"figure": "run.wall_s", "vm": "", "value": 12, "unit": "s", "goal": "at most 10", "holds": False},
        {"figure": "mutants.caught", "vm": "parisc", "value": 5, "unit": "mutants", "goal": "", "holds": False},
    ]
    assert len(figures.read()) == 2


def matrix() -> list[Cell]:
    return [
        cell("test_entry", "x86_64-debian", mutant="one-off"),
        cell("test_entry", "x86_64-debian"),
        cell("test_stubs[a]", "x86_64-debian", Verdict.SKIP, reason="x86_64-debian has no module_stubs"),
        cell("test_entry", "parisc", Verdict.FAIL, mutant="one-off"),
        cell("test_entry", "parisc", Verdict.FAIL, reason="its mutants survived: one-off"),
        cell("test_stubs[a]", "parisc", Verdict.PANIC, reason="Kernel panic <script>\x1b[2J\x1b]0;x\x07 gone"),
    ]


def test_pivot() -> None:
    pivot = Pivot(matrix())
    assert (pivot.cases, pivot.vms) == ((case("test_entry"), case("test_stubs[a]")), ("x86_64-debian", "parisc"))
    square = pivot.square(case("test_entry"), "x86_64-debian")
    assert (square.honest_or_worst_verdict, square.mutants_caught, square.mutants_tried) == (Verdict.PASS, 1, 1)
    assert pivot.square(case("test_entry"), "nowhere").honest_or_worst_verdict is None
    assert [group[0].verdict for group in pivot.failure_groups()] == [Verdict.PANIC, Verdict.FAIL, Verdict.FAIL]
    assert format_verdict_counts(pivot.totals()) == "2 pass, 1 skip, 2 fail, 1 panic"
    again = Pivot([*matrix(), cell("test_entry", "parisc")])
    assert again.square(case("test_entry"), "parisc").honest_or_worst_verdict is Verdict.PASS


def test_cases_of_one_name_in_two_files_are_two_rows() -> None:
    cells = [
        cell("test_entry", "parisc", Verdict.FAIL, file="cases/test_a.py"),
        cell("test_entry", "parisc", file="cases/test_b.py"),
    ]
    pivot = Pivot(cells)
    assert [pivot.case_label(each) for each in pivot.cases] == ["test_entry (test_a)", "test_entry (test_b)"]
    assert pivot.coverage.selected == 2
    assert [group[0].verdict for group in pivot.failure_groups()] == [Verdict.FAIL], (
        "the later one does not hide the first"
    )


@pytest.mark.parametrize("color", [False, True])
def test_summary(color: bool) -> None:
    lines: list[str] = []
    missing = [cell("test_never", "parisc")]
    replays = {
        CellKey("cases/test_x.py", "test_stubs[a]", "parisc", ""): "./pinpoint run --vm parisc -k 'test_stubs[a]'"
    }
    write_summary(lines.append, matrix(), replays, missing, color=color)
    text = "\n".join(lines)
    if not color:
        assert any(line.split() == ["test_entry", "pass", "(1/1)", "fail", "(0/1)"] for line in lines)
        assert "\x1b" not in text
        assert any(line.split() == ["test_never", "-", "1", "did", "not", "run"] for line in lines)
    assert "\x1b[2J" not in text
    assert "panic  test_stubs[a] on parisc" in text.replace("\x1b[0m", "").replace("\x1b[1;31m", "")
    assert "  again: ./pinpoint run --vm parisc -k 'test_stubs[a]'" in text
    assert "1 skipped: x86_64-debian has no module_stubs" in text
    assert "7 cells asked for: 5 ran, 1 skipped, 1 did not run" in text
    assert "did not run  test_never on parisc" in text


def test_failures_with_one_reason_are_reported_once() -> None:
    lines: list[str] = []
    write_summary(lines.append, [cell(f"test_{n}", "parisc", Verdict.BOOT_FAIL) for n in range(9)], {}, [])
    assert [line for line in lines if line.startswith("boot-fail")] == [
        "boot-fail  test_0 on parisc, and 8 more cells there"
    ]


def test_html_stands_alone_and_trusts_nobody(directory: RunDirectory) -> None:
    for kept in matrix():
        Results(directory).write(kept)
    Figures(directory).add("run.wall_s", 12, "s", goal="at most 10")
    (directory.path / "console" / "parisc.log").write_text("boot\n")
    (directory.path / "console" / "parisc-fsections.log").write_text("boot\n")
    page = write_report_of_run(directory).read_text()
    assert "./pinpoint repro" not in page
    assert "Kernel panic &lt;script&gt; gone" in page
    assert page.count("<script") == page.count("</script") == 2
    assert "\x1b" not in page
    assert "http" not in page.replace('http-equiv="Content', "")
    assert page.count('href="console/parisc.log"') == 1
    assert 'id="cases-test-x-py-test-stubs-a-parisc"' in page
    assert 'data-cell="cases/test_x.py::test_stubs[a]@parisc"' in page
    assert "missed" in page


def test_what_never_ran_is_in_the_html_and_no_run_is_green_with_it(directory: RunDirectory) -> None:
    Results(directory).write(cell("test_entry", "parisc"))
    assert "every cell held" in write_report_of_run(directory).read_text()
    page = write_report_of_run(
        directory, [cell("test_never", "parisc"), cell("test_entry", "parisc", mutant="one-off")]
    ).read_text()
    assert "every cell held" not in page
    assert "cells did not run" in page
    assert "3 cells asked for: 1 ran, 0 skipped, 2 did not run" in page
    assert page.count("2 cells on <b>parisc</b> did not run.") == 1
    assert "test_never" in page
    assert "test_entry, mutant one-off" in page


def test_html_of_a_run_without_cells_or_with_mutants_only(directory: RunDirectory) -> None:
    assert "no cell ran" in write_report_of_run(directory).read_text()
    Results(directory).write(cell("test_entry", "parisc", mutant="one-off"))
    assert "every cell held" in write_report_of_run(directory).read_text()


def test_plain_board_prints_begins_ends_and_sometimes_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    bus = Bus()
    board = Board(bus, False, lines.append)
    with bus.step("parisc", "kernel") as step:
        board.print_new_steps_as_plain_lines()
        step.publish_progress("compiling", 0.1)
        board.print_new_steps_as_plain_lines()
        assert [line.split("]")[1].split() for line in lines] == [["parisc", "kernel", "begins"]]
        monkeypatch.setattr(board_module, "_PATIENCE", 0.0)
        step.publish_progress("compiling\x1b[2J", 0.41)
        step.publish_progress("compiling", 0.42)
        board.print_new_steps_as_plain_lines()
        assert lines[-1].endswith("compiling 42 %")
        step.set_final_detail("412 objects")
    with pytest.raises(ValueError, match="no"), bus.step("parisc", "boot"):
        raise ValueError("no\nready line")
    board.close()
    assert lines[-2].endswith("(412 objects)")
    assert "FAILED after" in lines[-1]
    assert lines[-1].endswith(": no")
    assert len(lines) == 4
    board.print_new_steps_as_plain_lines()
    assert len(lines) == 4


LIVE = """
import sys
from harness.core.events import Bus
from harness.report.live_or_plain_progress_board import Board
bus = Bus()
board = Board(bus, sys.stdout.isatty())
out = board.stream_above_view(sys.stdout)
with bus.step("parisc", "kernel") as step:
    step.publish_progress("compiling", 0.41)
    out.write("tests/test_a.py .")
    sys.stdin.readline()
    out.write(". PASSED\\nunfinished")
    sys.stdin.readline()
board.close()
out.write(" and finished\\n")
"""


def test_live_board_keeps_below_the_lines_of_others(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(paths.PROJECT), "TERM": "xterm", "COLUMNS": "100"}
    child = pexpect.spawn(sys.executable, ["-c", LIVE], env=env, timeout=60, encoding="utf-8", dimensions=(24, 100))
    child.setecho(False)
    child.logfile_read = (tmp_path / "log").open("w")
    child.expect("parisc")
    child.expect("compiling")
    child.sendline()
    child.expect(r"tests/test_a\.py \.\. PASSED")
    child.sendline()
    child.expect(r"unfinished and finished\r\n")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    # The cursor was hidden, and is shown again at the end.
    log = (tmp_path / "log").read_text()
    assert log.rindex("\x1b[?25h") > log.rindex("\x1b[?25l")
