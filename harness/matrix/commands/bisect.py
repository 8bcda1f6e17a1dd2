"""`./pinpoint bisect`: git bisect over a kernel tree, where a case on a VM decides each commit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HostError, UsageError
from harness.core.files import write_text
from harness.matrix.commands.bisect_steps import (
    CommitTest,
    DecidingCells,
    RecordedTests,
    Ruling,
    Step,
    count_cells,
    every_cell_was_skipped,
)
from harness.matrix.commands.bisect_tree import BisectTree
from harness.verdict.cell_verdict_enum import Verdict

_STEPS = "steps.jsonl"
# So many of the cells that decide are printed.
_PRINTED_CELLS = 3

Tester = Callable[[str, Path], CommitTest]


@dataclass(frozen=True)
class Outcome:
    """The end of a bisection: the first bad commit, its log line, and the steps that prove it.

    `candidates` has several commits if all that are left were skipped; then `first_bad_commit` is empty. `deciding` are
    the names of the cells that decided. `also_failing` are those that fail on the good end, too, and decide nothing.
    """

    first_bad_commit: str
    commit_log_line: str
    bad_step: Step | None
    good_step: Step | None
    candidates: tuple[str, ...]
    steps: tuple[Step, ...]
    deciding: tuple[str, ...]
    also_failing: tuple[str, ...]


class Bisection:
    """One bisection: its tested commits, in a directory of its own, and the tree that it builds in."""

    def __init__(
        self, directory: Path, tree: BisectTree, good: str, bad: str, test: Tester, *, strict: bool = False
    ) -> None:
        """Take the whole names of both ends, which are commits of the tree's source."""
        self._directory = directory
        self._tree = tree
        self._good, self._bad = good, bad
        self._test = test
        self._strict = strict
        self._recorded = RecordedTests(directory / _STEPS)

    @property
    def tested_commits(self) -> int:
        """How many commits are tested so far."""
        return len(self._recorded.read())

    def run(self, on_wait: Callable[[str], None] = lambda _: None, *, anew: bool = False) -> Outcome:
        """Test both ends, then bisect; with `anew` no earlier test counts.

        Raises UsageError if an end is not what it should be, HostError if git or the host fails.
        """
        with self._tree.turn(on_wait):
            if anew:
                self._recorded.forget()
            self._tree.prepare(self._bad)
            good, deciding = self._ends()
            answer = self._tree.start(self._bad, self._good)
            while not answer.ends:
                commit = self._tree.next_commit
                step = self._ruled(commit, deciding)
                answer = self._tree.rule(commit, step.ruling.value)
            return self._outcome(answer.found, answer.candidates, good, deciding)

    def _ruled(self, commit: str, deciding: DecidingCells) -> Step:
        """Test and rule a commit; after another failure than that on the bad end it is tested once more."""
        step = deciding.rule(self._tested_now_or_before(commit))
        return deciding.rule(self._test_now(commit)) if step.another_failure else step

    def _ends(self) -> tuple[CommitTest, DecidingCells]:
        """Test both ends; return the good one, and the cells that fail only on the bad one.

        A hang on the bad end is tested once more, because it decides, and a guest that the host does not run hangs too.
        """
        resumed = self._bad in self._recorded.read()
        bad = self._tested_now_or_before(self._bad)
        if not resumed and any(cell.verdict is Verdict.HANG for cell in bad.failed().values()):
            bad = self._test_now(self._bad)
        if not bad.failed(skips_too=self._strict):
            self._complain("--bad", bad, _why_not_bad(bad, strict=self._strict))
        good = self._tested_now_or_before(self._good)
        deciding = DecidingCells.between(good, bad, strict=self._strict)
        if not deciding.names and good.failed():
            self._complain("--good", good, f"is bad: {next(iter(good.failed().values()))}")
        step = deciding.rule(good)
        if step.ruling is not Ruling.GOOD:
            self._complain("--good", good, f"cannot be tested: {step.why}")
        return good, deciding

    def _complain(self, option: str, test: CommitTest, what: str) -> None:
        where, why = str(self._tree.source.path), f"{option} {test.commit[:12]} {what}"
        if not test.final:
            raise HostError(why, where=where, mend="run the command again")
        changed = "; uncommitted changes are not tested" if self._tree.source.has_uncommitted_changes else ""
        raise UsageError(why, where=where, mend=f"give another {option}, or another case{changed}")

    def _tested_now_or_before(self, commit: str) -> CommitTest:
        """Return the test of a commit: the recorded one, or one that is run now."""
        recorded = self._recorded.read().get(commit)
        if recorded and recorded.final:
            return recorded
        return self._test_now(commit)

    def _test_now(self, commit: str) -> CommitTest:
        self._tree.check_out(commit)
        test = self._test(commit, self._tree.path)
        self._recorded.append(test)
        return test

    def _outcome(self, found: str, candidates: Sequence[str], good: CommitTest, deciding: DecidingCells) -> Outcome:
        tests = self._recorded.read()
        steps = {commit: deciding.rule(test) for commit, test in tests.items()}
        line, bad_step, good_step = "", None, None
        if found:
            line = self._tree.log_line(found)
            bad_step = steps.get(found)
            held = (steps.get(commit) for commit in self._tree.ancestors(found))
            good_step = next((step for step in held if step and step.ruling is Ruling.GOOD), None)
            about = {
                "first_bad": found,
                "log": line,
                "bad": bad_step and bad_step.results,
                "good": good_step and good_step.results,
                "deciding": sorted(deciding.names),
            }
            write_text(self._directory / "result.json", json.dumps(about, indent=1) + "\n")
        return Outcome(
            found,
            line,
            bad_step,
            good_step,
            (found,) if found else tuple(candidates),
            tuple(steps.values()),
            tuple(sorted(deciding.names)),
            tuple(sorted(good.failed())),
        )


def _why_not_bad(bad: CommitTest, *, strict: bool) -> str:
    held = [cell for cell in bad.cells if cell.held]
    if held:
        return f"is good: {count_cells(held)} passed"
    if bad.obstacle or not bad.final:
        undecided = next((str(cell) for cell in bad.cells), "no cell ran")
        return f"cannot be tested: {bad.obstacle or undecided}"
    hint = "" if strict else " (with --strict a skipped cell counts as failed)"
    return f"cannot be tested: {every_cell_was_skipped(bad.cells)}{hint}"


def report_lines(outcome: Outcome) -> Iterator[str]:
    """Yield the lines that end a bisection."""
    counts = {ruling: sum(step.ruling is ruling for step in outcome.steps) for ruling in Ruling}
    seconds = sum(step.test.seconds for step in outcome.steps)
    processor = sum(step.test.processor_seconds for step in outcome.steps)
    yield (
        f"{len(outcome.steps)} commits tested in {seconds:.0f} s, {processor:.0f} processor seconds: "
        + ", ".join(f"{count} {ruling.value}" for ruling, count in counts.items())
    )
    yield f"decided by {_some(outcome.deciding)}"
    if outcome.also_failing:
        yield f"not by {_some(outcome.also_failing)}: failed on --good, too"
    for step in outcome.steps:
        if step.ruling is Ruling.SKIP:
            yield f"skipped {step.commit[:12]}: {step.why}"
    if not outcome.first_bad_commit:
        yield f"the first bad commit is one of {len(outcome.candidates)}; the others could not be tested:"
        yield from (f"  {commit}" for commit in outcome.candidates)
        return
    yield f"first bad commit: {outcome.first_bad_commit}"
    yield f"  {outcome.commit_log_line}"
    if bad := outcome.bad_step:
        yield f"first bad: {bad.why}; results: {bad.results or 'none'}"
        if later := sorted(bad.test.held & set(outcome.deciding)):
            yield f"another commit broke {_some(later)}: passed on the first bad commit"
    if good := outcome.good_step:
        yield f"last good: {good.commit[:12]}; results: {good.results or 'none'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _PRINTED_CELLS} more" if len(names) > _PRINTED_CELLS else ""
    return f"{', '.join(names[:_PRINTED_CELLS])}{more}"
