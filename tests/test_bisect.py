"""Bisection of a git tree: the right commit, skipped commits, resumption, ends that are not what they should be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from test_export import cell

from harness import cli
from harness.core import locks
from harness.core.deadline import Deadline
from harness.core.errors import UsageError
from harness.matrix.commands.bisect import Bisection, Ruling, Step, report_lines
from harness.matrix.commands.bisect_test import ruling
from harness.verdict.cell_verdict_enum import Verdict

COMMITS = 30
IDENTITY = {f"GIT_{role}_{field}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


def git(tree: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", tree, *words], env={**os.environ, **IDENTITY}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A tree whose file `number` has the number of the commit; one commit after the other."""
    tree = tmp_path_factory.mktemp("history") / "linux"
    tree.mkdir()
    git(tree, "init", "--quiet", "--initial-branch=main")
    (tree / "constant").write_text("")
    git(tree, "add", "constant")
    commits = []
    for number in range(COMMITS):
        (tree / "number").write_text(f"{number}\n")
        git(tree, "add", "number")
        git(tree, "commit", "--quiet", "-m", f"area: change number {number}")
        commits.append(git(tree, "rev-parse", "HEAD"))
    return tree, commits


class Fake:
    """Rules by the file in the tree: bad from a number on, not testable at some numbers; counts its tests."""

    def __init__(self, first_bad: int, broken: set[int] = frozenset(), stop_after: int = COMMITS) -> None:  # type: ignore[assignment]
        self.first_bad, self.broken, self.stop_after = first_bad, broken, stop_after
        self.tested: list[int] = []

    def __call__(self, commit: str, tree: Path) -> Step:
        number = int((tree / "number").read_text())
        if len(self.tested) == self.stop_after:
            raise KeyboardInterrupt
        self.tested.append(number)
        if number in self.broken:
            return Step(commit, Ruling.SKIP, "does not build")
        return Step(commit, Ruling.BAD if number >= self.first_bad else Ruling.GOOD, f"number {number}")


@pytest.mark.parametrize("first_bad", [1, 7, 15, 22, 29])
def test_the_right_commit_is_found(first_bad: int, history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    before = git(tree, "status", "--porcelain", "--branch"), git(tree, "for-each-ref")
    fake = Fake(first_bad)
    outcome = Bisection(tmp_path, tmp_path / "clone", tree, commits[0], "HEAD", fake).run()
    assert outcome.first_bad_commit == commits[first_bad]
    assert outcome.bad_step is not None
    assert outcome.good_step is not None
    assert (outcome.bad_step.commit, outcome.good_step.commit) == (commits[first_bad], commits[first_bad - 1])
    assert len(fake.tested) == len(set(fake.tested)) <= 8
    assert f"change number {first_bad}" in "\n".join(report_lines(outcome))
    assert (git(tree, "status", "--porcelain", "--branch"), git(tree, "for-each-ref")) == before
    assert not list((tree / ".git").glob("BISECT*"))


def test_commits_that_cannot_be_tested_are_skipped(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    fake = Fake(10, broken={14, 15, 16})
    outcome = Bisection(tmp_path, tmp_path / "clone", tree, commits[0], commits[-1], fake).run()
    assert outcome.first_bad_commit == commits[10]
    assert {step.commit for step in outcome.steps if step.ruling is Ruling.SKIP} <= set(commits[14:17])


def test_when_only_skipped_commits_are_left_all_candidates_are_named(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    tree, commits = history
    outcome = Bisection(tmp_path, tmp_path / "clone", tree, commits[0], commits[-1], Fake(10, broken={9, 10})).run()
    assert outcome.first_bad_commit == ""
    assert set(outcome.candidates) == set(commits[9:12])
    assert "one of 3" in "\n".join(report_lines(outcome))


def test_an_interrupted_bisection_resumes_and_tests_no_commit_twice(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    tree, commits = history
    first = Fake(20, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        Bisection(tmp_path, tmp_path / "clone", tree, commits[0], commits[-1], first).run()
    with (tmp_path / "steps.jsonl").open("a") as stream:
        stream.write('{"commit": "cut o')
    second = Fake(20)
    again = Bisection(tmp_path, tmp_path / "clone", tree, commits[0], commits[-1], second)
    assert again.has_earlier_steps
    assert again.run().first_bad_commit == commits[20]
    assert not set(first.tested) & set(second.tested)
    again.forget_steps()
    assert not again.has_earlier_steps


@pytest.mark.parametrize(
    ("good", "bad", "first_bad", "complaint"),
    [
        ("nosuch", "HEAD", 9, "--good 'nosuch' is no commit"),
        ("HEAD", "HEAD", 9, "one commit"),
        ("HEAD", "HEAD~3", 9, "no ancestor"),
        ("HEAD~3", "HEAD", 9, r"--good [0-9a-f]{12} is bad, not good"),
        ("HEAD~3", "HEAD", 99, r"--bad [0-9a-f]{12} is good, not bad"),
        ("--output=x", "HEAD", 9, "is no commit"),
    ],
)
def test_ends_that_are_none(
    good: str, bad: str, first_bad: int, complaint: str, history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=complaint):
        Bisection(tmp_path, tmp_path / "clone", history[0], good, bad, Fake(first_bad)).run()


def test_a_directory_without_git_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bisect", "--tree", str(tmp_path), "--good", "a", "--bad", "b", "-k", "x", "--vm", "x86_64-fsections"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_bisections_of_a_tree_share_one_clone(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A file that no commit changed keeps its time, so the second bisection compiles it no more."""
    tree, commits = history
    clone = tmp_path / "clone"
    first = Bisection(tmp_path / "one", clone, tree, commits[0], commits[-1], Fake(20)).run()
    times: set[int] = set()

    class Watching(Fake):
        def __call__(self, commit: str, tree: Path) -> Step:
            times.add((tree / "constant").stat().st_mtime_ns)
            return super().__call__(commit, tree)

    second = Bisection(tmp_path / "two", clone, tree, commits[0], commits[-1], Watching(5)).run()
    assert (first.first_bad_commit, second.first_bad_commit) == (commits[20], commits[5])
    assert times == {(clone / "constant").stat().st_mtime_ns}


def test_bisections_of_a_tree_take_turns(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    clone, heard = tmp_path / "clone", list[str]()
    other = Bisection(tmp_path / "two", clone, tree, commits[0], commits[-1], Fake(5))
    with locks.hold_lock(clone.with_name(".clone.lock"), deadline=Deadline.after(1), on_wait=heard.append):

        def stop(line: str) -> None:
            heard.append(line)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            other.run(on_wait=stop)
    assert heard == ["another run holds the lock; waiting"]
    assert other.run(on_wait=stop).first_bad_commit == commits[5]


FAIL, PASS, SKIP, ERROR = Verdict.FAIL, Verdict.PASS, Verdict.SKIP, Verdict.HARNESS_ERROR


@pytest.mark.parametrize(
    ("status", "verdicts", "lines", "expected"),
    [
        (0, [PASS], [], Ruling.GOOD),
        (1, [PASS, FAIL], [], Ruling.BAD),
        (1, [Verdict.OOPS], [], Ruling.BAD),
        (0, [SKIP], [], Ruling.SKIP),
        (3, [ERROR], [], Ruling.SKIP),
        (3, [], ["pinpoint: make failed: kernel/kprobes.c:1: error: x"], Ruling.SKIP),
        (3, [FAIL], [], Ruling.BAD),
        (1, [], [], Ruling.SKIP),
    ],
)
def test_how_a_run_rules(status: int, verdicts: list[Verdict], lines: list[str], expected: Ruling) -> None:
    cells = [cell(f"case{index}", verdict, reason="r") for index, verdict in enumerate(verdicts)]
    step = ruling("c", status, cells, lines, Path("results"))
    assert step.ruling is expected
    assert step.why


def test_a_case_that_does_not_exist_ends_the_bisection() -> None:
    with pytest.raises(UsageError, match="no case matches"):
        ruling("c", 2, [], ["pinpoint: no case matches: -k nosuch"], Path("results"))
