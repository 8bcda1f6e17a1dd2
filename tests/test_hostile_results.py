"""Results with numbers, names and sizes that no run has make no command hang or end with a traceback."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import sample_runs

from harness import cli
from harness.report import history
from harness.report.run_dir import RunDirectory

SPAN = {"worker": "main", "vm": "parisc", "kind": "cell", "name": "a", "began": 1.0, "seconds": 1.0, "verdict": "pass"}
FIGURE = {"figure": "run.wall_s", "vm": "", "value": 1.0, "unit": "s", "goal": "at most 3", "holds": True}
TRIAL = {
    **{"vm": "parisc", "trial": "t", "made_for": "x", "symbols": 2, "missed": 1, "instruction": 1},
    **dict.fromkeys(("mid_instruction", "in_stub", "in_padding", "unnamed_code", "outside_text"), 0),
    **dict.fromkeys(("missed_by_symbol", "table_bytes", "by_hand_bytes", "by_symbol_bytes"), 0),
}
STRETCH = {"address": 1, "code": "zz", "kinds": ["instruction"], "marked": 0, "label": "x"}
DRAWING = {"function": "f", "by_symbol": STRETCH, "by_hand": None, "place": "x", "distance": 1}
INFINITE, NONE = float("inf"), float("nan")
COMMANDS = [
    *(["export", "--format", form] for form in ("ktap", "junit", "kcidb", "json", "markdown")),
    *(["matrix"], ["report"], ["compare"], ["merge"]),
]


def written(root: Path, name: str, *lines: object) -> RunDirectory:
    """Write a run with one good cell and a file of hostile lines."""
    run = RunDirectory.create(root / "results")
    good = json.dumps(sample_runs.cell("test_a", "parisc").model_dump(mode="json", by_alias=True))
    run.results_file.write_text(f"{good}\n")
    with (run.path / name).open("a") as stream:
        stream.writelines(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    return run


@pytest.fixture(autouse=True)
def _results_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged run must not become the project's latest one."""
    monkeypatch.setenv("PINPOINT_RESULTS", str(tmp_path / "results"))


def started(run: RunDirectory, command: list[str]) -> int:
    words = [*command, *([str(run.path)] if command == ["compare"] else []), str(run.path)]
    began = time.process_time()
    status = cli.main(words)
    assert time.process_time() - began < 20
    return status


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *(
            ("timeline.jsonl", {**SPAN, key: value})
            for key in ("began", "seconds")
            for value in (INFINITE, NONE, 1e300)
        ),
        ("timeline.jsonl", {**SPAN, "seconds": 9e14}),
        ("timeline.jsonl", {**SPAN, "seconds": "1e999"}),
        ("timeline.jsonl", {**SPAN, "verdict": "none that exists"}),
        *(("figures.jsonl", {**FIGURE, "value": value}) for value in (INFINITE, NONE, 1e308)),
        ("trials.jsonl", {**TRIAL, "symbols": 10**400}),
        ("trials.jsonl", {**TRIAL, "instruction": 10**4000}),
        ("trials.jsonl", {**TRIAL, "drawing": DRAWING}),
        ("trials.jsonl", {**TRIAL, "moved": [["a", 10**400, 1, 1], ["b", 1, 2, 3]]}),
    ],
)
def test_numbers_that_no_run_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, line: object
) -> None:
    run = written(tmp_path, name, line)
    assert started(run, ["report"]) == 0
    assert started(run, ["export", "--format", "json"]) == 0
    assert "Infinity" not in (printed := capsys.readouterr().out)
    assert "NaN" not in printed


@pytest.mark.parametrize("seconds", ["Infinity", "NaN", "1e300", '"1e999"'])
def test_a_cell_of_infinite_duration_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    good = sample_runs.cell("test_b", "parisc").model_dump_json(by_alias=True)
    run = written(tmp_path, "results.jsonl", good.replace('"seconds":1.25', f'"seconds":{seconds}'))
    assert started(run, ["report"]) == 0
    assert "test_b" not in run.html_report_file.read_text()
    assert started(run, ["export", "--format", "json"]) == 0
    assert "test_b" not in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[-1])
@pytest.mark.parametrize(("cases", "vms"), [(3000, 500), (2, 3000)])
def test_a_table_of_empty_squares_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], cases: int, vms: int
) -> None:
    cell = sample_runs.cell("CASE", "VM").model_dump_json(by_alias=True)
    count = max(cases, vms)
    names = ((f"test_{number % cases}", f"vm{number % vms}") for number in range(count))
    run = written(tmp_path, "results.jsonl", *(cell.replace("CASE", case).replace("VM", vm) for case, vm in names))
    status = started(run, command)
    if command == ["export", "--format", "json"] or command in (["compare"], ["merge"]):
        assert status in (0, 1)
    else:
        assert status == 2
        assert capsys.readouterr().err.endswith("name fewer runs, or only runs that you trust\n")


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x"


@pytest.mark.parametrize(
    "script",
    [
        f"CREATE VIEW runs AS {ENDLESS} AS run, 1 AS bytes FROM c;",
        f"{history._TABLES} CREATE TRIGGER t AFTER INSERT ON runs BEGIN INSERT INTO runs {ENDLESS}, 1 FROM c; END;",
        f"{history._TABLES} CREATE VIEW more AS {ENDLESS} FROM c;",
        f"{history._TABLES} INSERT INTO cells VALUES ('r', 'f', 'test_a', 'parisc', '', 'no verdict', '', 'x', '');",
        f"{history._TABLES} INSERT INTO figures VALUES ('r', 'run.wall_s', '', 'no number');",
    ],
)
def test_the_history_of_somebody_else_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    run = written(tmp_path, "figures.jsonl", FIGURE)
    with closing(sqlite3.connect(run.path.parent / "history.sqlite")) as database:
        database.executescript(f"{script} PRAGMA user_version = {history._VERSION};")
    monkeypatch.setenv("PINPOINT_RESULTS", str(run.path.parent))
    assert cli.main(["history"]) == 0
    assert started(run, ["report"]) == 0


def test_no_history_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path, "figures.jsonl", FIGURE)
    (run.path.parent / "history.sqlite").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("PINPOINT_RESULTS", str(run.path.parent))
    assert started(run, ["report"]) == 0
    assert cli.main(["history"]) == 0
    assert not (tmp_path / "elsewhere").exists()
