"""`./pinpoint bisect`: git bisect over a kernel tree, where a case on a VM decides each commit."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from harness.core import locks
from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.files import write_text
from harness.core.process import FinishedProcess, run

_GIT_SECONDS = 600.0
# How long another bisection of the same tree is waited for.
_TURN_SECONDS = 24 * 3600.0
_FOUND = re.compile(r"^([0-9a-f]{40}) is the first (?:bad|new) commit", re.MULTILINE)
_UNDECIDED = "only 'skip'ped commits left"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_STEPS = "steps.jsonl"


class Ruling(Enum):
    """What one commit is, in git bisect's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


@dataclass(frozen=True)
class Step:
    """One tested commit. `why` explains the ruling in one line, `results` is the directory of its run, if any."""

    commit: str
    ruling: Ruling
    why: str
    seconds: float = 0.0
    results: str = ""


@dataclass(frozen=True)
class Outcome:
    """The end of a bisection: the first bad commit, its log line, and the steps that prove it.

    `candidates` has several commits if all that are left were skipped; then `first_bad_commit` is empty.
    """

    first_bad_commit: str
    commit_log_line: str
    bad_step: Step | None
    good_step: Step | None
    candidates: tuple[str, ...]
    steps: tuple[Step, ...]


Tester = Callable[[str, Path], Step]


class Bisection:
    """One bisection: its steps so far, in a directory of its own, and a clone that shares the user's objects.

    The user's tree is only read: refs and the work tree that git bisect changes are those of the clone. The clone keeps
    its path and its files' times, so that each build compiles only what a commit changed. All bisections of one source
    use one clone, `tree`, in turns.
    """

    def __init__(self, directory: Path, tree: Path, source: Path, good: str, bad: str, test: Tester) -> None:
        """Raises UsageError if the source is no git tree or has no such commits."""
        self._directory = directory
        self.tree = tree
        self._test = test
        self._source = source
        if not source.is_dir() or _git(source, "rev-parse", "--git-dir").rc:
            raise UsageError("is no git tree", where=str(source), mend="give a clone of a kernel with --tree")
        self.good, self.bad = self._commit(good, "--good"), self._commit(bad, "--bad")
        if self.good == self.bad:
            raise UsageError("--good and --bad are one commit", where=self.good[:12], mend="give two")
        if _git(source, "merge-base", "--is-ancestor", self.good, self.bad).rc:
            raise UsageError("--good is no ancestor of --bad", where=str(source), mend="give an older commit as --good")

    @property
    def has_earlier_steps(self) -> bool:
        """True if an interrupted bisection left steps here."""
        return bool(self.steps())

    def steps(self) -> list[Step]:
        """Return the tested commits, in order; a line that was cut off by a crash is ignored."""
        path = self._directory / _STEPS
        found = []
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            found.append(Step(**{**fields, "ruling": Ruling(fields["ruling"])}))
        return found

    def forget_steps(self) -> None:
        """Remove the steps and the state of git bisect; the clone stays, because its objects are built."""
        (self._directory / _STEPS).unlink(missing_ok=True)

    def run(self, on_wait: Callable[[str], None] = lambda _: None) -> Outcome:
        """Test both ends, then bisect. Raises UsageError if an end is not what it should be, HostError if git fails."""
        lock = self.tree.with_name(f".{self.tree.name}.lock")
        with locks.hold_lock(lock, deadline=Deadline.after(_TURN_SECONDS), on_wait=on_wait):
            return self._run()

    def _run(self) -> Outcome:
        self._prepare()
        for commit, wanted in ((self.bad, Ruling.BAD), (self.good, Ruling.GOOD)):
            step = self._ruled(commit)
            if step.ruling is not wanted:
                option = f"--{wanted.value}"
                raise UsageError(
                    f"{option} {commit[:12]} is {step.ruling.value}, not {wanted.value}: {step.why}",
                    where=str(self._source),
                    mend=f"give another {option}, or another case",
                )
        answer = self._demand("bisect", "start", self.bad, self.good)
        while True:
            if found := _FOUND.search(answer):
                return self._found(found[1])
            if _UNDECIDED in answer:
                return Outcome("", "", None, None, self._left(answer), tuple(self.steps()))
            commit = self._demand("rev-parse", "HEAD").strip()
            step = self._ruled(commit)
            finished = _git(self.tree, "bisect", step.ruling.value, commit)
            # git bisect ends with status 2 when only skipped commits are left.
            answer = finished.output
            if finished.rc and _UNDECIDED not in answer and not _FOUND.search(answer):
                raise HostError(f"git bisect failed: {_last(answer)}", where=str(self.tree))

    def _prepare(self) -> None:
        """Make the clone, or update it; a bisection of git in it is started again, from the recorded steps."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.tree.parent.mkdir(parents=True, exist_ok=True)
        if not (self.tree / ".git" / "HEAD").is_file():
            shutil.rmtree(self.tree, ignore_errors=True)
            partial = self.tree.with_name(f".{self.tree.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            cloned = run(
                ["git", "clone", "--quiet", "--shared", "--no-checkout", self._source, partial],
                deadline=Deadline.after(_GIT_SECONDS),
            )
            if cloned.rc:
                raise HostError(f"git clone failed: {_last(cloned.output)}", where=str(self._source))
            partial.rename(self.tree)
        _git(self.tree, "bisect", "reset", "HEAD")

    def _ruled(self, commit: str) -> Step:
        """Return the step of a commit: the recorded one, or that of a test now."""
        for step in self.steps():
            if step.commit == commit:
                return step
        self._demand("checkout", "--quiet", "--force", "--detach", commit)
        began = time.monotonic()
        step = self._test(commit, self.tree)
        step = Step(step.commit, step.ruling, step.why, round(time.monotonic() - began, 1), step.results)
        fields = {**asdict(step), "ruling": step.ruling.value}
        with (self._directory / _STEPS).open("a") as stream:
            stream.write(f"{json.dumps(fields)}\n")
        return step

    def _found(self, commit: str) -> Outcome:
        line = self._demand("log", "-1", "--format=%h %an %ad %s", "--date=short", commit).strip()
        steps = self.steps()
        bad = next((step for step in steps if step.commit == commit), None)
        parents = self._demand("rev-list", "--first-parent", commit).split()
        order = {name: index for index, name in enumerate(parents)}
        passed = [step for step in steps if step.ruling is Ruling.GOOD and step.commit in order]
        good = min(passed, key=lambda step: order[step.commit], default=None)
        outcome = Outcome(commit, line, bad, good, (commit,), tuple(steps))
        about = {"first_bad": commit, "log": line, "bad": bad and bad.results, "good": good and good.results}
        write_text(self._directory / "result.json", json.dumps(about, indent=1) + "\n")
        return outcome

    def _left(self, answer: str) -> tuple[str, ...]:
        """The commits of which any may be the first bad one, from git's answer."""
        return tuple(dict.fromkeys(_COMMIT.findall(answer)))

    def _commit(self, name: str, option: str) -> str:
        found = _git(self._source, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        commit = found.output.strip()
        if found.rc or not _COMMIT.fullmatch(commit):
            raise UsageError(f"{option} {name[:80]!r} is no commit", where=str(self._source), mend="see git log there")
        return commit

    def _demand(self, *words: str) -> str:
        finished = _git(self.tree, *words)
        if finished.rc:
            raise HostError(f"git {words[0]} failed: {_last(finished.output)}", where=str(self.tree))
        return finished.output


def report_lines(outcome: Outcome) -> Iterator[str]:
    """Yield the lines that end a bisection."""
    counts = {ruling: sum(step.ruling is ruling for step in outcome.steps) for ruling in Ruling}
    seconds = sum(step.seconds for step in outcome.steps)
    yield (
        f"{len(outcome.steps)} commits tested in {seconds:.0f} s: "
        + ", ".join(f"{count} {ruling.value}" for ruling, count in counts.items())
    )
    for step in outcome.steps:
        if step.ruling is Ruling.SKIP:
            yield f"skipped {step.commit[:12]}: {step.why}"
    if not outcome.first_bad_commit:
        yield f"the first bad commit is one of {len(outcome.candidates)}; the others could not be tested:"
        yield from (f"  {commit}" for commit in outcome.candidates)
        return
    yield f"first bad commit: {outcome.first_bad_commit}"
    yield f"  {outcome.commit_log_line}"
    if outcome.bad_step:
        yield f"first bad: {outcome.bad_step.why}; results: {outcome.bad_step.results or 'none'}"
    if outcome.good_step:
        yield f"last good: {outcome.good_step.commit[:12]}; results: {outcome.good_step.results or 'none'}"


def _git(tree: Path, *words: str) -> FinishedProcess:
    # No hook and no configuration of the user's machine takes part; the tree may belong to another user.
    settings = ["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", f"safe.directory={tree}"]
    return run(["git", "-C", tree, *settings, *words], deadline=Deadline.after(_GIT_SECONDS), env={"LC_ALL": "C"})


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
