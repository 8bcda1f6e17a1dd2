"""The git side of a bisection: the user's tree, which is only read, and a tree of our own that shares its objects."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.files import write_text
from harness.core.locks import hold_lock
from harness.core.process import FinishedProcess, run

_GIT_SECONDS = 600.0
# How long another bisection of the same tree is waited for.
_TURN_SECONDS = 24 * 3600.0
_FOUND = re.compile(r"^([0-9a-f]{40}) is the first (?:bad|new) commit", re.MULTILINE)
_UNDECIDED = "only 'skip'ped commits left"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# A hook of git, `git rebase --exec` and `git bisect run` set them for their own tree.
_OF_OTHER_TREES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


@dataclass(frozen=True)
class Answer:
    """What git bisect printed: the first bad commit, or the `candidates` if only skipped commits are left."""

    found: str = ""
    candidates: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Answer:
        """Read the output of `git bisect start`, `good`, `bad` or `skip`."""
        if found := _FOUND.search(text):
            return cls(found[1])
        return cls(candidates=tuple(dict.fromkeys(_COMMIT.findall(text))) if _UNDECIDED in text else ())

    @property
    def ends(self) -> bool:
        """True if git bisect has no further commit to test."""
        return bool(self.found or self.candidates)


@dataclass(frozen=True)
class SourceTree:
    """The user's git tree: a work tree, a linked one, or a bare repository. Nothing is written to it."""

    path: Path

    @classmethod
    def find(cls, directory: Path) -> Self:
        """Return the tree that a directory is in. Raises UsageError if it is in none."""
        if not directory.is_dir() or _git(directory, "rev-parse", "--git-dir").rc:
            raise UsageError("is no git tree", where=str(directory), mend="give a clone of a kernel with --tree")
        top = _git(directory, "rev-parse", "--show-toplevel")
        return cls(directory if top.rc else Path(top.output.strip()))

    def commit(self, name: str, option: str) -> str:
        """Return the commit's whole name. Raises UsageError if there is none."""
        found = _git(self.path, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        commit = found.output.strip()
        if found.rc or not _COMMIT.fullmatch(commit):
            raise UsageError(f"{option} {name[:80]!r} is no commit", where=str(self.path), mend="see git log there")
        return commit

    def demand_ancestor(self, good: str, bad: str) -> None:
        """Raise UsageError unless `good` is an older commit of the history of `bad`."""
        where = str(self.path)
        if good == bad:
            raise UsageError("--good and --bad are one commit", where=good[:12], mend="give two")
        if not _git(self.path, "merge-base", "--is-ancestor", good, bad).rc:
            return
        if not _git(self.path, "merge-base", "--is-ancestor", bad, good).rc:
            raise UsageError("--good is newer than --bad", where=where, mend="exchange the two")
        base = _git(self.path, "merge-base", good, bad)
        found = _COMMIT.search(base.output)
        if base.rc == 0 and found:
            mend = f"give their merge base as --good: {found[0][:12]}"
        elif self._git_path("shallow").is_file():
            mend = "its history is cut off: run git fetch --unshallow there"
        else:
            mend = "give two commits with one history"
        raise UsageError("--good is no ancestor of --bad", where=where, mend=mend)

    @property
    def has_uncommitted_changes(self) -> bool:
        """True if a file that git tracks differs from HEAD; the index is not refreshed.

        False for a tree of another user: `git status` runs programs that the tree's own configuration names (filters).
        """
        words = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
        status = _git(self.path, *words, of_any_user=False)
        return not status.rc and bool(status.output)

    @property
    def objects(self) -> Path:
        """The directory of git's objects."""
        return self._git_path("objects")

    @property
    def shallow_commits(self) -> str:
        """The content of the file with the commits at which a shallow history ends; empty if it is whole."""
        path = self._git_path("shallow")
        return path.read_text() if path.is_file() else ""

    def _git_path(self, name: str) -> Path:
        found = _git(self.path, "rev-parse", "--git-path", name)
        if found.rc:
            raise HostError(f"git rev-parse failed: {_last(found.output)}", where=str(self.path))
        return (self.path / found.output.strip()).resolve()


@dataclass(frozen=True)
class BisectTree:
    """A tree of our own at `path` that has the objects of `source`, and git bisect's state.

    It keeps its path and the times of files that no commit changes, so that each build compiles only what a commit
    changed. All bisections of one source use one tree, in turns.
    """

    source: SourceTree
    path: Path

    @property
    def _git_directory(self) -> Path:
        return self.path / ".git"

    @contextmanager
    def turn(self, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Wait until no other bisection uses the tree, and keep it while the block runs."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        with hold_lock(lock, deadline=Deadline.after(_TURN_SECONDS), on_wait=on_wait):
            yield

    def prepare(self, commit: str) -> None:
        """Make the tree unless it exists, and remove what an interrupted bisection left in it.

        git needs some valid HEAD: it is `commit`, if HEAD is none. Files are written by `check_out` only.
        """
        if not (self._git_directory / "HEAD").is_file():
            self._make()
        write_text(self._git_directory / "objects/info/alternates", f"{self.source.objects}\n")
        shallow = self._git_directory / "shallow"
        if ends := self.source.shallow_commits:
            write_text(shallow, ends)
        else:
            shallow.unlink(missing_ok=True)
        # Only the holder of the turn uses the tree, so that such a lock was left by a process that was killed.
        for left in (self._git_directory / "index.lock", *self._git_directory.glob("BISECT_*")):
            left.unlink(missing_ok=True)
        shutil.rmtree(self._git_directory / "refs/bisect", ignore_errors=True)
        if _git(self.path, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").rc:
            self._demand("update-ref", "--no-deref", "HEAD", commit)

    def check_out(self, commit: str) -> None:
        """Make the files those of a commit, without any other file."""
        self._demand("checkout", "--quiet", "--force", "--detach", commit)
        self._demand("clean", "-ffdxq")

    def start(self, bad: str, good: str) -> Answer:
        """Start git bisect. It moves no files, so a resumed bisection does not touch what was built."""
        return Answer.read(self._demand("bisect", "start", "--no-checkout", bad, good))

    @property
    def next_commit(self) -> str:
        """The commit that git bisect wants to be tested."""
        return self._demand("rev-parse", "--verify", "BISECT_HEAD").strip()

    def rule(self, commit: str, ruling: str) -> Answer:
        """Pass a ruling, `good`, `bad` or `skip`, to git bisect."""
        finished = _git(self.path, "bisect", ruling, commit)
        answer = Answer.read(finished.output)
        # git bisect ends with status 2 when only skipped commits are left.
        if finished.rc and not answer.ends:
            raise HostError(f"git bisect failed: {_last(finished.output)}", where=str(self.path))
        return answer

    def log_line(self, commit: str) -> str:
        """Return one line: the short name, author, date and subject of a commit."""
        return self._demand("log", "-1", "--format=%h %an %ad %s", "--date=short", commit).strip()

    def ancestors(self, commit: str) -> list[str]:
        """Return a commit and its ancestors, the nearest first."""
        return self._demand("rev-list", "--topo-order", commit).split()

    def _make(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        made = _git(partial, "init", "--quiet", "--template=")
        if made.rc:
            raise HostError(f"git init failed: {_last(made.output)}", where=str(partial))
        (partial / ".git/objects/info").mkdir(exist_ok=True)
        partial.rename(self.path)

    def _demand(self, *words: str) -> str:
        finished = _git(self.path, *words)
        if finished.rc:
            raise HostError(f"git {words[0]} failed: {_last(finished.output)}", where=str(self.path))
        return finished.output


def _git(tree: Path, *words: str, of_any_user: bool = True) -> FinishedProcess:
    # No hook and no configuration of the user or the host takes part; the tree may belong to another user.
    settings = ["core.hooksPath=/dev/null", "core.fsmonitor=false", "advice.detachedHead=false"]
    settings += ["safe.directory=*"] if of_any_user else []
    options = [part for setting in settings for part in ("-c", setting)]
    without = [part for name in _OF_OTHER_TREES for part in ("-u", name)]
    return run(
        ["env", *without, "git", "-C", tree, *options, *words],
        deadline=Deadline.after(_GIT_SECONDS),
        env={"LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
    )


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
