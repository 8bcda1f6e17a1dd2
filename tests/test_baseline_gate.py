"""A run that gates: its exit status against a baseline, the cells that were not selected, the replays of failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_export import cell

from harness import cli
from harness.matrix.commands import baseline_gate as gates
from harness.matrix.commands.baseline_gate import Gate, Listener
from harness.report.compare import AcceptedFailure, FailureBaseline
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict

FAIL, PASS, SKIP = Verdict.FAIL, Verdict.PASS, Verdict.SKIP


def gate(old: FailureBaseline | list[Cell] | None, new: list[Cell], **options: object) -> Gate:
    listener = Listener()
    listener.cells = new
    listener.selected_keys = {each.key for each in new}
    listener.directory = Path("/run")
    return Gate(old, listener=listener, **options)  # type: ignore[arg-type]


def known(case: str, verdict: Verdict = FAIL) -> FailureBaseline:
    return FailureBaseline(
        known=(AcceptedFailure(case=case, vm=cell(case).vm, verdict=verdict, reason="r", owner="o"),)
    )


@pytest.mark.parametrize(
    ("old", "new", "status", "expected"),
    [
        ([cell("a", FAIL, reason="x")], [cell("a", FAIL, reason="x")], 1, 0),
        ([cell("a")], [cell("a", FAIL, reason="x")], 1, 1),
        ([cell("a")], [cell("a")], 0, 0),
        (known("a"), [cell("a", FAIL, reason="x")], 1, 0),
        (known("a"), [cell("a", Verdict.OOPS, reason="x")], 1, 1),
        (None, [cell("a", FAIL, reason="x")], 1, 1),
        (None, [cell("a")], 0, 0),
        # A harness error, wrong use and an interruption stay what they are.
        ([cell("a")], [cell("a")], 3, 3),
        ([cell("a")], [cell("a", Verdict.HARNESS_ERROR)], 3, 3),
        ([cell("a"), cell("b")], [cell("a", Verdict.HARNESS_ERROR), cell("b", FAIL)], 3, 1),
        ([cell("a")], [], 3, 3),
        ([cell("a")], [], 130, 130),
    ],
)
def test_the_status_is_that_of_what_got_worse(
    old: FailureBaseline | list[Cell] | None, new: list[Cell], status: int, expected: int
) -> None:
    assert gate(old, new).judge_and_report(status) == expected


def test_cells_that_were_not_selected_are_not_gone(capsys: pytest.CaptureFixture[str]) -> None:
    before = [cell("a"), cell("b")]
    assert gate(before, [cell("a")]).judge_and_report(0) == 1
    assert "gone" in capsys.readouterr().out
    assert gate(before, [cell("a")]).judge_and_report(0, ["-k", "a"]) == 0
    assert gate(before, [cell("a")]).judge_and_report(0, ["--loader", "./mine"]) == 0
    assert gate(before, [cell("a")]).judge_and_report(0, ["--shard", "1/2"]) == 0
    assert gate(before, [cell("a")]).judge_and_report(0, ["--shard=1/2"]) == 0
    assert gate(before, [cell("a")]).judge_and_report(0, ["--shards", "2"]) == 1
    # A selected cell without a verdict is lost, not left out.
    lost = gate(before, [cell("a")])
    lost.listener.selected_keys.add(cell("b").key)
    assert lost.judge_and_report(0, ["-k", "a or b"]) == 1


def test_a_baseline_file_hides_no_lost_cell(capsys: pytest.CaptureFixture[str]) -> None:
    lost = gate(known("a"), [cell("a", FAIL, reason="x")])
    assert lost.judge_and_report(1) == 0
    lost.listener.selected_keys.add(cell("b").key)
    assert lost.judge_and_report(1) == 1
    assert "no result in this run" in capsys.readouterr().out
    # A status that no failed cell explains stays.
    assert gate(known("a"), [cell("a")]).judge_and_report(1) == 1


def test_strict_counts_new_skips_and_lost_traits() -> None:
    skipped = [cell("a", SKIP, reason="no kaslr")]
    assert gate([cell("a")], skipped).judge_and_report(0) == 0
    assert gate([cell("a")], skipped, strict=True).judge_and_report(0) == 1
    assert gate(None, [cell("a")], lost_traits=["kaslr"]).judge_and_report(0) == 0
    assert gate(None, [cell("a")], lost_traits=["kaslr"], strict=True).judge_and_report(0) == 1


def test_each_new_failure_is_replayed_and_the_verdict_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed: list[tuple[Path, int]] = []

    def confirm(bundle: Path, times: int) -> tuple[int, int]:
        replayed.append((bundle, times))
        return 1, times

    monkeypatch.setattr(gates.replay, "replay_and_count_failures", confirm)
    old = [cell("a"), cell("b", FAIL, reason="x"), cell("c")]
    new = [
        cell("a", FAIL, reason="x").model_copy(update={"bundle": "bundles/a"}),
        cell("b", FAIL, reason="x").model_copy(update={"bundle": "bundles/b"}),
        cell("c", FAIL, reason="x"),
    ]
    assert gate(old, new, confirmation_replays=3).judge_and_report(1) == 1
    assert replayed == [(Path("/run/bundles/a"), 3)]
    printed = capsys.readouterr().out
    assert "failed again in 1 of 3 fresh guests" in printed
    assert "not replayed, it has no bundle" in printed


@pytest.mark.parametrize("baseline", ["/nosuch", "/nosuch/known.toml"])
def test_a_baseline_that_is_none_ends_before_anything_is_built(
    baseline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--vm", "parisc", "--baseline", baseline]) == 2
    assert capsys.readouterr().err.count("\n") == 1
