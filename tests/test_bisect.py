"""Bisection of a git tree: the right commit, skipped commits, resumption, ends that are not what they should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli, cli_bisect
from harness.core import locks, paths
from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.matrix.commands.bisect import Bisection, Outcome, report_lines
from harness.matrix.commands.bisect_steps import CellEnd, CommitTest, Ruling
from harness.matrix.commands.bisect_tree import BisectTree, SourceTree
from harness.verdict.cell_verdict_enum import Verdict

COMMITS = 30
IDENTITY = {f"GIT_{role}_{field}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
PASS, FAIL, SKIP, ERROR = Verdict.PASS, Verdict.FAIL, Verdict.SKIP, Verdict.HARNESS_ERROR


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
    """Tests by the file in the tree: bad from a number on, not testable at some numbers; counts its tests."""

    def __init__(self, first_bad: int, broken: set[int] = frozenset(), stop_after: int = COMMITS) -> None:  # type: ignore[assignment]
        self.first_bad, self.broken, self.stop_after = first_bad, broken, stop_after
        self.tested: list[int] = []

    def __call__(self, commit: str, tree: Path) -> CommitTest:
        number = int((tree / "number").read_text())
        if len(self.tested) == self.stop_after:
            raise KeyboardInterrupt
        self.tested.append(number)
        if number in self.broken:
            return CommitTest(commit, obstacle="does not build")
        return CommitTest(commit, (CellEnd("case", FAIL if number >= self.first_bad else PASS, f"number {number}"),))


class Scripted(Fake):
    """Each cell's verdict by the number of the commit."""

    def __init__(self, **cells: Callable[[int], Verdict]) -> None:
        super().__init__(0)
        self.cells = cells

    def __call__(self, commit: str, tree: Path) -> CommitTest:
        super().__call__(commit, tree)
        cells = tuple(CellEnd(name, verdict(self.tested[-1])) for name, verdict in self.cells.items())
        return CommitTest(commit, cells, final=ERROR not in [cell.verdict for cell in cells])


def bisection(
    directory: Path, clone: Path, tree: Path, good: str, bad: str, test: Fake, *, strict: bool = False
) -> Bisection:
    source = SourceTree.find(tree)
    ends = source.commit(good, "--good"), source.commit(bad, "--bad")
    source.demand_ancestor(*ends)
    return Bisection(directory, BisectTree(source, clone), *ends, test, strict=strict)


def whole(history: tuple[Path, list[str]], tmp_path: Path, fake: Fake, *, strict: bool = False) -> Outcome:
    tree, commits = history
    return bisection(tmp_path, tmp_path / "clone", tree, commits[0], commits[-1], fake, strict=strict).run()


@pytest.mark.parametrize("first_bad", [1, 7, 15, 22, 29])
def test_the_right_commit_is_found(first_bad: int, history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    before = git(tree, "status", "--porcelain", "--branch"), git(tree, "for-each-ref")
    fake = Fake(first_bad)
    outcome = bisection(tmp_path, tmp_path / "clone", tree, commits[0], "HEAD", fake).run()
    assert outcome.first_bad_commit == commits[first_bad]
    assert outcome.bad_step is not None
    assert outcome.good_step is not None
    assert (outcome.bad_step.commit, outcome.good_step.commit) == (commits[first_bad], commits[first_bad - 1])
    assert len(fake.tested) == len(set(fake.tested)) <= 8
    assert f"change number {first_bad}" in "\n".join(report_lines(outcome))
    assert (git(tree, "status", "--porcelain", "--branch"), git(tree, "for-each-ref")) == before
    assert not list((tree / ".git").glob("BISECT*"))


def test_commits_that_cannot_be_tested_are_skipped(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    commits = history[1]
    outcome = whole(history, tmp_path, Fake(10, broken={14, 15, 16}))
    assert outcome.first_bad_commit == commits[10]
    assert {step.commit for step in outcome.steps if step.ruling is Ruling.SKIP} <= set(commits[14:17])


def test_when_only_skipped_commits_are_left_all_candidates_are_named(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    outcome = whole(history, tmp_path, Fake(10, broken={9, 10}))
    assert outcome.first_bad_commit == ""
    assert set(outcome.candidates) == set(history[1][9:12])
    assert "one of 3" in "\n".join(report_lines(outcome))


def test_an_interrupted_bisection_resumes_and_tests_no_commit_twice(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    first, second = Fake(20, stop_after=4), Fake(20)
    with pytest.raises(KeyboardInterrupt):
        whole(history, tmp_path, first)
    with (tmp_path / "steps.jsonl").open("a") as stream:
        stream.write('{"commit": "cut o')
    assert whole(history, tmp_path, second).first_bad_commit == history[1][20]
    assert not set(first.tested) & set(second.tested)
    # The first line after the one that was cut off is whole.
    third = Fake(20)
    whole(history, tmp_path, third)
    assert third.tested == []


def test_a_resumed_bisection_touches_no_file_of_a_commit_that_was_tested(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    whole(history, tmp_path, Fake(20))
    number = tmp_path / "clone" / "number"
    before = number.stat().st_mtime_ns
    whole(history, tmp_path, Fake(20))
    assert number.stat().st_mtime_ns == before


def test_damaged_and_foreign_records_are_ignored(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text(
        '[]\n3\n{"cells": 1}\n{"commit": "a", "cells": [], "ruling": "good"}\n\udcff'.encode(
            errors="surrogateescape"
        ).decode(errors="replace")
    )
    assert whole(history, tmp_path, Fake(20)).first_bad_commit == history[1][20]


def test_a_killed_git_leaves_nothing_that_stops_the_next_bisection(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        whole(history, tmp_path, Fake(20, stop_after=3))
    clone = tmp_path / "clone"
    (clone / ".git/index.lock").write_text("")
    (clone / "number").write_text("half wr")
    (clone / "left.c").write_text("a file of another commit")
    (clone / ".git/HEAD").write_text("0123456789" * 4 + "\n")
    fake = Fake(20)
    assert whole(history, tmp_path, fake).first_bad_commit == history[1][20]
    assert fake.tested
    assert not (clone / "left.c").exists()


@pytest.mark.parametrize(
    ("good", "bad", "first_bad", "complaint", "mend"),
    [
        ("nosuch", "HEAD", 9, "--good 'nosuch' is no commit", ""),
        ("HEAD", "HEAD", 9, "one commit", ""),
        ("HEAD", "HEAD~3", 9, "newer than --bad", "exchange"),
        ("HEAD~3", "HEAD", 9, r"--good [0-9a-f]{12} is bad: case: fail: number 26", "another --good"),
        ("HEAD~3", "HEAD", 99, r"--bad [0-9a-f]{12} is good: 1 cell passed", "another --bad"),
        ("--output=x", "HEAD", 9, "is no commit", ""),
        ("HEAD:number", "HEAD", 9, "is no commit", ""),
    ],
)
def test_ends_that_are_none(
    good: str, bad: str, first_bad: int, complaint: str, mend: str, history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=complaint) as raised:
        bisection(tmp_path, tmp_path / "clone", history[0], good, bad, Fake(first_bad)).run()
    assert mend in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_end_that_does_not_build_is_named(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    for number, option in ((0, "--good"), (COMMITS - 1, "--bad")):
        shutil.rmtree(tmp_path / "clone", ignore_errors=True)
        (tmp_path / "steps.jsonl").unlink(missing_ok=True)
        with pytest.raises(UsageError, match=rf"{option} [0-9a-f]{{12}} cannot be tested: does not build"):
            whole(history, tmp_path, Fake(9, broken={number}))


def test_an_end_with_a_harness_error_may_be_tried_again(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"--bad .* cannot be tested: case: harness-error"):
        whole(history, tmp_path, Scripted(case=lambda number: ERROR if number == COMMITS - 1 else PASS))
    fake = Scripted(case=lambda number: FAIL if number >= 9 else PASS)
    assert whole(history, tmp_path, fake).first_bad_commit == history[1][9]
    assert fake.tested[0] == COMMITS - 1


def test_two_lines_of_history_have_a_merge_base(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    git(tmp_path, "clone", "--quiet", str(history[0]), str(tree))
    git(tree, "checkout", "--quiet", "-b", "other", "HEAD~5")
    (tree / "number").write_text("99\n")
    git(tree, "commit", "--quiet", "-a", "-m", "area: another line")
    with pytest.raises(UsageError, match="no ancestor") as raised:
        bisection(tmp_path, tmp_path / "clone", tree, "other", "origin/main", Fake(9))
    assert history[1][-6][:12] in str(raised.value)


def test_a_shallow_tree_says_so_and_is_bisected_where_it_has_commits(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    tree = tmp_path / "linux"
    git(tmp_path, "clone", "--quiet", "--depth=8", f"file://{history[0]}", str(tree))
    fetched = ["-c", "protocol.file.allow=always", "fetch", "--quiet", "--depth=1", "origin", history[1][3]]
    git(history[0], "config", "uploadpack.allowAnySHA1InWant", "true")
    git(tree, *fetched)
    with pytest.raises(UsageError, match="no ancestor") as raised:
        bisection(tmp_path, tmp_path / "clone", tree, history[1][3], "HEAD", Fake(26))
    assert "unshallow" in str(raised.value)
    outcome = bisection(tmp_path, tmp_path / "clone", tree, "HEAD~6", "HEAD", Fake(26)).run()
    assert outcome.first_bad_commit == history[1][26]


def test_commits_that_are_made_after_the_first_bisection_are_found(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    tree = tmp_path / "linux"
    git(tmp_path, "clone", "--quiet", str(history[0]), str(tree))
    bisection(tmp_path / "one", tmp_path / "clone", tree, "HEAD~9", "HEAD", Fake(25)).run()
    for number in (97, 98):
        (tree / "number").write_text(f"{number}\n")
        git(tree, "commit", "--quiet", "-a", "-m", f"area: change number {number}")
    outcome = bisection(tmp_path / "two", tmp_path / "clone", tree, "HEAD~9", "HEAD", Fake(98)).run()
    assert outcome.first_bad_commit == git(tree, "rev-parse", "HEAD")


@pytest.mark.parametrize("kind", ["bare", "worktree", "subdirectory"])
def test_kinds_of_trees(kind: str, history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    given = tmp_path / "given"
    if kind == "bare":
        git(tmp_path, "clone", "--quiet", "--bare", str(tree), str(given))
    elif kind == "worktree":
        git(tmp_path, "clone", "--quiet", str(tree), str(tmp_path / "main"))
        git(tmp_path / "main", "worktree", "add", "--quiet", "--detach", str(given))
    else:
        git(tmp_path, "clone", "--quiet", str(tree), str(tmp_path / "main"))
        given = tmp_path / "main" / "kernel"
        given.mkdir()
    outcome = bisection(tmp_path / "steps", tmp_path / "clone", given, commits[0], commits[-1], Fake(12)).run()
    assert outcome.first_bad_commit == commits[12]


def test_variables_of_a_hook_and_the_users_configuration_take_no_part(
    history: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(
        "[log]\n\tshowSignature = true\n[color]\n\tui = always\n[core]\n\tautocrlf = true\n"
    )
    assert whole(history, tmp_path, Fake(12)).first_bad_commit == history[1][12]
    assert (tmp_path / "clone" / "number").read_bytes().count(b"\r") == 0


def test_the_cells_that_fail_on_the_bad_end_only_decide(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    """One cell fails on every commit, another in the middle, a third from commit 20 on."""
    fake = Scripted(
        always=lambda _: FAIL,
        between=lambda number: FAIL if 8 <= number < 17 else PASS,
        case=lambda number: FAIL if number >= 20 else PASS,
    )
    outcome = whole(history, tmp_path, fake)
    assert outcome.first_bad_commit == history[1][20]
    lines = "\n".join(report_lines(outcome))
    assert "decided by case\n" in lines
    assert "not by always: failed on --good, too" in lines
    assert outcome.bad_step is not None
    assert outcome.bad_step.why.startswith("case: fail")


def test_of_two_broken_cells_the_first_is_found_and_the_other_named(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    fake = Scripted(
        early=lambda number: FAIL if number >= 11 else PASS, late=lambda number: FAIL if number >= 22 else PASS
    )
    outcome = whole(history, tmp_path, fake)
    assert outcome.first_bad_commit == history[1][11]
    assert "another commit broke late: passed on the first bad commit" in "\n".join(report_lines(outcome))


def test_a_case_that_is_skipped_at_an_end(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    skipped = Scripted(case=lambda number: SKIP if number < 5 else FAIL)
    with pytest.raises(UsageError, match=r"--good [0-9a-f]{12} cannot be tested: every cell was skipped"):
        whole(history, tmp_path, skipped)
    lost = Scripted(case=lambda number: SKIP if number >= 13 else PASS)
    with pytest.raises(UsageError, match=r"--bad [0-9a-f]{12} cannot be tested: every cell was skipped.*--strict"):
        whole(history, tmp_path / "lost", lost)
    assert whole(history, tmp_path / "strict", lost, strict=True).first_bad_commit == history[1][13]


def test_a_harness_error_is_skipped_and_tested_again_only_by_a_resumed_bisection(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    first = Scripted(case=lambda number: ERROR if 9 <= number <= 10 else FAIL if number >= 10 else PASS)
    assert set(whole(history, tmp_path, first).candidates) == set(history[1][9:12])
    assert len(first.tested) == len(set(first.tested))
    second = Fake(10)
    assert whole(history, tmp_path, second).first_bad_commit == history[1][10]
    assert set(second.tested) <= {9, 10}


def test_another_failure_is_tested_once_more(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A guest on a loaded host hangs once at each commit from 5 on; at 17 and 18 it hangs each time."""
    hung = set[int]()

    def verdict(number: int) -> Verdict:
        if 5 <= number < COMMITS - 1 and (number in {17, 18} or number not in hung):
            hung.add(number)
            return Verdict.HANG
        return FAIL if number >= 12 else PASS

    fake = Scripted(case=verdict)
    assert whole(history, tmp_path, fake).first_bad_commit == history[1][12]
    assert max(fake.tested.count(number) for number in fake.tested) == 2


def test_a_hang_on_the_bad_end_is_tested_once_more(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    ends = list[Verdict]()

    def verdict(number: int) -> Verdict:
        if number == COMMITS - 1:
            ends.append(FAIL if ends else Verdict.HANG)
            return ends[-1]
        return FAIL if number >= 12 else PASS

    assert whole(history, tmp_path, Scripted(case=verdict)).first_bad_commit == history[1][12]
    assert ends == [Verdict.HANG, FAIL]
    ends.clear()
    assert whole(history, tmp_path, Scripted(case=verdict)).first_bad_commit == history[1][12]
    assert not ends


def test_anew_forgets_the_tested_commits(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    whole(history, tmp_path, Fake(20))
    again = Fake(5)
    outcome = bisection(tmp_path, tmp_path / "clone", tree, commits[0], commits[-1], again).run(anew=True)
    assert outcome.first_bad_commit == commits[5]


def test_uncommitted_changes_are_noticed_and_left_alone(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    git(tmp_path, "clone", "--quiet", str(history[0]), str(tree))
    assert not SourceTree.find(tree).has_uncommitted_changes
    (tree / "number").write_text("not committed\n")
    index = (tree / ".git/index").read_bytes()
    assert SourceTree.find(tree).has_uncommitted_changes
    with pytest.raises(UsageError) as raised:
        bisection(tmp_path, tmp_path / "clone", tree, "HEAD~5", "HEAD", Fake(99)).run()
    assert "uncommitted changes are not tested" in str(raised.value)
    assert (tree / "number").read_text() == "not committed\n"
    assert (tree / ".git/index").read_bytes() == index


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--good", "a", "-k", "x", "--vm", "x86_64-fsections"), "is no git tree"),
        (("--good", "a", "-k", " ", "--vm", "x86_64-fsections"), "names no case"),
        (("--good", "a", "-k", "x", "--vm", "x86_64-fsections,parisc"), "for one VM"),
        (("--good", "a", "-k", "x", "--vm", "nosuch"), "nosuch"),
    ],
)
def test_wrong_use_is_one_line(
    words: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bisect", "--tree", str(tmp_path), "--bad", "b", *words]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert complaint in printed


def test_the_command_resumes_by_commits_and_not_by_names(
    history: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same commits by other names are the same bisection, another case or content of --config is another."""
    fakes = list[Fake]()

    def fake_test(*_: object, **__: object) -> Fake:
        fakes.append(Fake(20))
        return fakes[-1]

    monkeypatch.setattr(cli_bisect, "CaseTest", fake_test)
    monkeypatch.setattr(paths, "cache", lambda: tmp_path)
    tree, commits = history
    config = tmp_path / "config"
    config.write_text("CONFIG_A=y\n")
    words = ["bisect", "--tree", str(tree), "--good", commits[0], "--vm", "x86_64-fsections", "--config", str(config)]
    case = ["-k", "test_module_function"]
    assert cli.main([*words, "--bad", commits[-1], *case]) == 0
    printed = capsys.readouterr()
    assert f"first bad commit: {commits[20]}\n" in printed.out
    assert "resuming" not in printed.err
    tested = len(fakes[-1].tested)
    assert cli.main([*words, "--bad", "HEAD", *case]) == 0
    assert f"resuming after {tested} tested commits" in capsys.readouterr().err
    assert fakes[-1].tested == []
    assert cli.main([*words, "--bad", "HEAD", "-k", "test_kernel_function"]) == 0
    config.write_text("CONFIG_A=n\n")
    assert cli.main([*words, "--bad", "HEAD", *case]) == 0
    assert "resuming" not in capsys.readouterr().err
    assert [len(fake.tested) for fake in fakes] == [tested, 0, tested, tested]


@pytest.mark.parametrize("expression", ["test_no_such_case", "test_leaf (", "a b"])
def test_a_case_that_does_not_exist_is_wrong_use_before_anything_is_built(
    expression: str, history: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    tree, commits = history
    words = ["bisect", "--tree", str(tree), "--good", commits[0], "--bad", commits[-1], "--vm", "x86_64-fsections"]
    assert cli.main([*words, "-k", expression]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("pinpoint: -k: no case matches")


def test_two_bisections_of_a_tree_share_one_clone(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A file that no commit changed keeps its time, so the second bisection compiles it no more."""
    tree, commits = history
    clone = tmp_path / "clone"
    first = bisection(tmp_path / "one", clone, tree, commits[0], commits[-1], Fake(20)).run()
    times: set[int] = set()

    class Watching(Fake):
        def __call__(self, commit: str, tree: Path) -> CommitTest:
            times.add((tree / "constant").stat().st_mtime_ns)
            return super().__call__(commit, tree)

    second = bisection(tmp_path / "two", clone, tree, commits[0], commits[-1], Watching(5)).run()
    assert (first.first_bad_commit, second.first_bad_commit) == (commits[20], commits[5])
    assert times == {(clone / "constant").stat().st_mtime_ns}


def test_bisections_of_a_tree_take_turns(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    tree, commits = history
    clone, lines = tmp_path / "clone", list[str]()
    other = bisection(tmp_path / "two", clone, tree, commits[0], commits[-1], Fake(5))
    with locks.hold_lock(clone.with_name(".clone.lock"), deadline=Deadline.after(1), on_wait=lines.append):

        def stop(line: str) -> None:
            lines.append(line)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            other.run(on_wait=stop)
    assert lines == ["another run holds the lock; waiting"]
    assert other.run(on_wait=stop).first_bad_commit == commits[5]
    assert json.loads((tmp_path / "two" / "result.json").read_text())["first_bad"] == commits[5]
