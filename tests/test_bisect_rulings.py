"""How the run of one commit rules in a bisection: what is the commit's fault, and what is the host's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from test_export import cell

from harness.core import error_handover
from harness.core.error_handover import HandedOverError
from harness.core.errors import (
    BootError,
    BuildError,
    GuestLost,
    HostDeadlineExceeded,
    HostError,
    PinpointError,
    RecipeError,
    UsageError,
)
from harness.core.events import Bus
from harness.core.process import FinishedProcess
from harness.matrix.commands import bisect_test
from harness.matrix.commands.bisect_steps import CellEnd, CommitTest, DecidingCells, Ruling, worst_of
from harness.matrix.commands.bisect_test import CaseTest, read_end
from harness.verdict.cell_verdict_enum import Verdict

FAIL, PASS, SKIP, ERROR = Verdict.FAIL, Verdict.PASS, Verdict.SKIP, Verdict.HARNESS_ERROR
LOG = Path("run.log")


def ended(
    status: int, *verdicts: Verdict, error: HandedOverError | None = None, lines: tuple[str, ...] = ()
) -> CommitTest:
    cells = [cell(f"case{index}", verdict, reason="r") for index, verdict in enumerate(verdicts)]
    return read_end("c" * 40, status, cells, error, lines, LOG)


def rule(test: CommitTest, *names: str, on_bad: Verdict = FAIL) -> Ruling:
    step = DecidingCells({f"cases/test_sites.py::{name}": on_bad for name in names}).rule(test)
    assert step.why
    return step.ruling


@pytest.mark.parametrize(
    ("status", "verdicts", "expected"),
    [
        (0, [PASS], Ruling.GOOD),
        (1, [FAIL, PASS], Ruling.BAD),
        (1, [Verdict.OOPS], Ruling.SKIP),
        (1, [Verdict.HANG, FAIL], Ruling.BAD),
        (0, [Verdict.KNOWN_FAIL], Ruling.GOOD),
        (0, [SKIP], Ruling.SKIP),
        (0, [SKIP, PASS], Ruling.GOOD),
        (3, [ERROR], Ruling.SKIP),
        (3, [ERROR, PASS], Ruling.SKIP),
        (1, [Verdict.BOOT_FAIL], Ruling.SKIP),
        (3, [FAIL, ERROR], Ruling.BAD),
    ],
)
def test_how_a_run_rules(status: int, verdicts: list[Verdict], expected: Ruling) -> None:
    names = [f"case{index}" for index in range(len(verdicts))]
    test = ended(status, *verdicts)
    assert rule(test, *names) is expected
    assert test.final is not any(verdict in (ERROR, Verdict.BOOT_FAIL) for verdict in verdicts)


def test_a_deciding_cell_that_did_not_run_decides_nothing() -> None:
    assert rule(ended(1, PASS), "case0", "case1") is Ruling.SKIP


def test_a_failed_cell_that_does_not_decide_is_no_ruling() -> None:
    assert rule(ended(1, PASS, FAIL), "case0") is Ruling.GOOD
    assert rule(ended(1, SKIP, FAIL), "case0") is Ruling.SKIP


def test_a_skipped_cell_is_bad_only_with_strict() -> None:
    assert rule(ended(0, SKIP, PASS), "case0", on_bad=SKIP) is Ruling.BAD
    assert rule(ended(0, SKIP, PASS), "case0") is Ruling.SKIP


def test_another_failure_than_on_the_bad_end_is_no_ruling() -> None:
    step = DecidingCells({"cases/test_sites.py::case0": FAIL}).rule(ended(1, Verdict.HANG))
    assert (step.ruling, step.another_failure) == (Ruling.SKIP, True)
    assert "on --bad it is fail" in step.why


def test_a_skip_decides_with_strict_only_if_the_good_end_passed() -> None:
    good, bad = ended(1, PASS, SKIP, FAIL), ended(1, SKIP, SKIP, FAIL)
    assert DecidingCells.between(good, bad, strict=False).names == set()
    assert DecidingCells.between(good, bad, strict=True).names == {"cases/test_sites.py::case0"}


def test_mutants_do_not_rule() -> None:
    cells = [cell("case0", FAIL, mutant="deaf"), cell("case0", PASS)]
    assert [end.verdict for end in read_end("c", 1, cells, None, [], LOG).cells] == [PASS]


@pytest.mark.parametrize(
    ("error", "of_host"),
    [
        (BuildError("make failed", log=LOG), False),
        (RecipeError("lacks CONFIG_KPROBES"), False),
        (BootError("panicked"), False),
        (GuestLost("QEMU ended"), False),
        (HostError("the disk is full", where="/"), True),
        (HostDeadlineExceeded("apt did not end in time"), True),
    ],
)
def test_an_error_is_the_commits_or_the_hosts(error: PinpointError, of_host: bool, tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    assert HandedOverError.read(path) is None
    error_handover.hand_over(error, path)
    read = HandedOverError.read(path)
    assert read == HandedOverError(str(error), of_host)
    if of_host:
        with pytest.raises(HostError, match="no ruling on cccccccccccc") as raised:
            ended(3, error=read)
        assert "resumes" in str(raised.value)
    else:
        test = ended(3, error=read)
        assert rule(test, "case0") is Ruling.SKIP
        assert (test.obstacle, test.final) == (str(error), True)


def test_a_full_disk_in_a_cell_stops_the_bisection() -> None:
    cells = [cell("case0", ERROR, reason=f"/results/x: {os.strerror(errno.ENOSPC)}")]
    with pytest.raises(HostError, match="No space left on device; no ruling"):
        read_end("c" * 40, 3, cells, None, [], LOG)


@pytest.mark.parametrize("status", [0, 1, 3, -9, 137])
def test_a_run_without_cells_and_without_an_error_stops_the_bisection(status: int) -> None:
    with pytest.raises(HostError, match=f"status {status} and no cell") as raised:
        ended(status, lines=("a build printed: no case matches",))
    assert str(LOG) in str(raised.value)


@pytest.mark.parametrize(
    "line", ["pinpoint: no case matches: -k nosuch", "ERROR: Wrong expression passed to '-k': a b: at column 3"]
)
def test_a_case_that_does_not_exist_ends_the_bisection(line: str) -> None:
    with pytest.raises(UsageError) as raised:
        ended(2, lines=("collected 0 items", line))
    assert str(raised.value).startswith(f"-k: {line.partition(': ')[2]}")


def test_of_repeated_runs_the_worst_end_of_each_cell_counts() -> None:
    ends = [(PASS, PASS), (FAIL, PASS), (PASS, SKIP)]
    tests = [
        CommitTest("c", (CellEnd("a", a), CellEnd("b", b)), seconds=2, processor_seconds=1, results=f"r{index}")
        for index, (a, b) in enumerate(ends)
    ]
    merged = worst_of(tests)
    assert {end.name: end.verdict for end in merged.cells} == {"a": FAIL, "b": SKIP}
    assert (merged.seconds, merged.processor_seconds, merged.results) == (6, 3, "r2")


def case_test(tmp_path: Path, times: int = 1) -> CaseTest:
    return CaseTest("vm", "case", [], tmp_path, Bus(), times)


def test_a_commit_is_run_again_until_it_has_an_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are those of a child that fails to build a kernel the second time."""
    calls = list[int]()

    def fake_run(_argv: object, *, env: dict[str, str], **_: object) -> FinishedProcess:
        calls.append(1)
        if len(calls) == 2:
            error_handover.hand_over(BuildError("make failed"), Path(env[error_handover.VARIABLE]))
        return FinishedProcess((), 0 if len(calls) == 1 else 3, "", 0.0)

    monkeypatch.setattr(bisect_test, "run", fake_run)
    monkeypatch.setattr(bisect_test, "_cells", lambda _: [cell("case0", PASS)] if len(calls) == 1 else [])
    test = case_test(tmp_path, times=5)("c" * 40, tmp_path)
    assert (len(calls), test.obstacle, len(test.cells)) == (2, "make failed", 1)
    assert rule(test, "case0") is Ruling.SKIP


def test_the_error_of_a_child_is_handed_over(tmp_path: Path) -> None:
    """A real child: a tree without a kernel is wrong use on every commit, so that the first end names it."""
    test = CaseTest("x86_64-fsections", "x", [], tmp_path, Bus())
    empty = tmp_path / "tree"
    empty.mkdir()
    ended_by = test("c" * 40, empty)
    assert str(empty) in ended_by.obstacle
    assert (ended_by.cells, ended_by.processor_seconds > 0) == ((), True)
    log = tmp_path / "logs" / f"{'c' * 12}.log"
    assert ended_by.obstacle in log.read_text()


def test_a_command_takes_the_file_away_from_its_own_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(error_handover.VARIABLE, str(tmp_path / "error.json"))
    assert error_handover.take_file_from_environment() == tmp_path / "error.json"
    assert error_handover.take_file_from_environment() is None
    assert error_handover.VARIABLE not in os.environ
