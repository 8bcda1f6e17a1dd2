"""Two runs are compared with each other, a run with a baseline file, and the kept runs make a history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_export import cell

from harness import cli
from harness.report.compare import FailureBaseline, compare, compare_with_baseline, comparison_lines
from harness.report.history import read_history
from harness.report.record import Cell, Results
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict

FAIL, PASS, SKIP, OOPS = Verdict.FAIL, Verdict.PASS, Verdict.SKIP, Verdict.OOPS
KNOWN_FAIL = Verdict.KNOWN_FAIL


@pytest.mark.parametrize(
    ("old", "new", "section", "worse"),
    [
        ([cell("a")], [cell("a", FAIL, reason="x")], "newly_failed", True),
        ([cell("a"), cell("b")], [cell("b")], "missing_cells", True),
        ([cell("a", vm="x86_64-debian"), cell("b")], [cell("b")], "", False),
        ([cell("a", SKIP, reason="no kaslr"), cell("b")], [cell("b")], "", False),
        ([cell("a", FAIL, reason="x")], [cell("a")], "mended", False),
        ([cell("a", FAIL, reason="x")], [cell("a", OOPS, reason="y")], "changed_verdicts", False),
        ([cell("a", FAIL, reason="at 0xffff8000")], [cell("a", FAIL, reason="at 0xffff9000")], "", False),
        ([cell("a", FAIL, reason="x+0x4")], [cell("a", FAIL, reason="x+0x8")], "changed_verdicts", False),
        ([cell("a")], [cell("a", SKIP, reason="no kaslr")], "newly_skipped", False),
        ([cell("a", SKIP, reason="no kaslr")], [cell("a")], "added", False),
        ([cell("a", KNOWN_FAIL, reason="x")], [cell("a")], "mended", False),
        ([cell("a")], [cell("a", KNOWN_FAIL, reason="x")], "changed_verdicts", False),
        ([cell("a", kernel_release="6.1")], [cell("a", kernel_release="6.8")], "changed_kernels", False),
        ([cell("a", kernel_release="6.1")], [cell("a", kernel_release="")], "", False),
        ([cell("b")], [cell("a"), cell("b")], "added", False),
        ([cell("b")], [cell("a", FAIL, reason="x"), cell("b")], "newly_failed", True),
        ([cell("a", seconds=1.0)], [cell("a", seconds=9.0)], "slower", False),
        ([cell("a", seconds=0.1)], [cell("a", seconds=0.9)], "", False),
        # Two cases with one name in two files are two cells.
        ([cell("a"), cell("a", file="cases/other.py")], [cell("a"), cell("a", OOPS, reason="x", file="cases/other.py")],
         "newly_failed", True),
    ],
)  # fmt: skip
def test_what_got_worse(old: list[Cell], new: list[Cell], section: str, worse: bool) -> None:
    found = compare(old, new)
    filled = {
        name
        for name in (
            *("newly_failed", "missing_cells", "newly_skipped", "mended", "changed_verdicts", "added", "slower"),
            "changed_kernels",
        )
        if getattr(found, name)
    }
    assert filled == ({section} if section else set())
    assert found.worse is worse


def test_strict_makes_a_new_skip_worse() -> None:
    assert compare([cell("a")], [cell("a", SKIP, reason="no kaslr")], strict=True).worse


KNOWN = """
[[known]]
case = "a"
vm = "parisc"
verdict = "fail"
reason = "arch/parisc single-steps a taken branch incorrectly"
owner = "somebody@example.org"
"""


def test_a_baseline_covers_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text(KNOWN)
    baseline = FailureBaseline.read(path)
    found = compare_with_baseline(baseline, [cell("a", FAIL, reason="x")])
    assert not found.worse
    assert found.known_failures == [
        "a on parisc: fail: arch/parisc single-steps a taken branch incorrectly (somebody@example.org)"
    ]
    assert not found.changed_verdicts
    assert compare_with_baseline(baseline, [cell("a", OOPS, reason="x")]).worse, "another verdict is not known"
    assert compare_with_baseline(baseline, [cell("a", FAIL, reason="x", mutant="m")]).worse, "another cell is not known"
    held = compare_with_baseline(baseline, [cell("a")])
    assert (len(held.mended), held.entries_without_cell) == (1, [])
    # Of a cell that -k did not select, nothing is known.
    other = compare_with_baseline(baseline, [cell("b")])
    assert (other.mended, len(other.entries_without_cell), other.worse) == ([], 1, False)


@pytest.mark.parametrize(
    "text",
    [
        "[[known]]\ncase = 1\n",
        "[[known]]\n",
        "x = [[[",
        "known = 3",
        KNOWN + "color = 1\n",
        KNOWN.replace("fail", "bad"),
    ],
)
def test_a_broken_baseline_is_one_line_and_status_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text(text)
    run = RunDirectory.create(tmp_path / "results")
    Results(run).write(cell("a"))
    assert cli.main(["compare", str(path), str(run.path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_kernel_of_each_run_is_shown() -> None:
    found = compare([cell("a", kernel_release="6.1.0")], [cell("a", kernel_release="6.8.0")])
    assert comparison_lines(found) == ["another kernel (1):", "  parisc: 6.1.0 before, 6.8.0 now", "nothing got worse"]


def test_strict_without_earlier_passes_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A baseline file does not list the cells that passed; a strict comparison with it would find no new skip."""
    (tmp_path / "baseline.toml").write_text("")
    run = run_of(tmp_path, "20260101-000000-0000", cell("a", SKIP, reason="no kaslr"))
    baseline = str(tmp_path / "baseline.toml")
    for words in (["compare", baseline, str(run), "--strict"], ["merge", str(run), "--baseline", baseline, "--strict"],
                  ["merge", str(run), "--strict"], ["run", "--vm", "parisc", "--strict", "--baseline", baseline],
                  ["run", "--vm", "parisc", "--strict"]):  # fmt: skip
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--strict" in line


def run_of(root: Path, name: str, *cells: Cell) -> Path:
    path = root / name
    path.mkdir(parents=True)
    for each in cells:
        Results(RunDirectory(path)).write(each)
    return path


def test_the_commands_of_past_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    monkeypatch.setenv("PINPOINT_RESULTS", str(results))
    old = run_of(results, "20260101-000000-0000", cell("a"), cell("b"))
    new = run_of(results, "20260102-000000-0000", cell("a", FAIL, reason="x"), cell("b"))
    assert cli.main(["compare", str(old), str(new)]) == 1
    assert cli.main(["compare", str(old), str(old)]) == 0
    for form in ("ktap", "junit", "kcidb", "json", "markdown"):
        assert cli.main(["export", str(new), "--format", form]) == 0
    assert cli.main(["export", str(tmp_path), "--format", "ktap"]) == 2
    capsys.readouterr()
    assert cli.main(["history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "FLAKY" in line] == ["a on parisc: 1 pass, 1 fail; 0.5 s  FLAKY"]


def test_the_history_is_rebuilt_when_it_is_missing_damaged_or_a_run_is_removed(tmp_path: Path) -> None:
    run_of(tmp_path, "20260101-000000-0000", cell("a"))
    second = run_of(tmp_path, "20260102-000000-0000", cell("a", FAIL, reason="x"))
    expected = read_history(tmp_path)
    (tmp_path / "history.sqlite").unlink()
    assert read_history(tmp_path) == expected
    (tmp_path / "history.sqlite").write_bytes(b"no database at all" * 100)
    assert read_history(tmp_path) == expected
    (second / "results.jsonl").unlink()
    second.rmdir()
    after: Any = read_history(tmp_path)
    assert [each.verdicts for each in after] == [(PASS,)]
