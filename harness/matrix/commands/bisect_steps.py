"""What the tests of a bisection found, and how they rule: good, bad or skipped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from harness.verdict.cell_verdict_enum import Verdict

# They show nothing about what the case claims: the harness failed, or the kernel did not boot.
_UNDECIDED = (Verdict.HARNESS_ERROR, Verdict.BOOT_FAIL)
_HELD = (Verdict.PASS, Verdict.KNOWN_FAIL)


class Ruling(Enum):
    """What one commit is, in git bisect's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


@dataclass(frozen=True)
class CellEnd:
    """How one honest cell ended; `results` is its bundle, or the directory of its run."""

    name: str
    verdict: Verdict
    reason: str = ""
    results: str = ""

    @property
    def held(self) -> bool:
        """True if the cell passed, or failed in the documented way."""
        return self.verdict in _HELD

    @property
    def failed(self) -> bool:
        """True if the kernel did not do what the cell claims."""
        return not self.verdict.acceptable and self.verdict not in _UNDECIDED

    def __str__(self) -> str:
        return ": ".join(part for part in (self.name, self.verdict.value, self.reason) if part)


@dataclass(frozen=True)
class CommitTest:
    """The test of one commit: its honest cells, or why there are none (`obstacle`).

    `results` is the directory of its run, if any. `processor_seconds` are those of the builds and of the guests. A test
    that is not `final` failed by a cause that may be the host's: a resumed bisection tests the commit again.
    """

    commit: str
    cells: tuple[CellEnd, ...] = ()
    obstacle: str = ""
    results: str = ""
    seconds: float = 0.0
    processor_seconds: float = 0.0
    final: bool = True

    def failed(self, *, skips_too: bool = False) -> dict[str, CellEnd]:
        """Return the failed cells by name, with `skips_too` also the skipped ones."""
        return {cell.name: cell for cell in self.cells if cell.failed or (skips_too and cell.verdict is Verdict.SKIP)}

    @property
    def held(self) -> set[str]:
        """The names of the cells that passed."""
        return {cell.name for cell in self.cells if cell.held}


@dataclass(frozen=True)
class Step:
    """A tested commit with its ruling; `why` explains it in one line, `results` is the bundle of a failed cell.

    `another_failure` is True if a deciding cell failed with another verdict than on the bad end.
    """

    test: CommitTest
    ruling: Ruling
    why: str
    results: str
    another_failure: bool = False

    @property
    def commit(self) -> str:
        """The commit."""
        return self.test.commit


@dataclass(frozen=True)
class DecidingCells:
    """The cells by which commits are ruled, with their verdicts on the bad end; `skip` only in a strict bisection."""

    verdicts: Mapping[str, Verdict]

    @classmethod
    def between(cls, good: CommitTest, bad: CommitTest, *, strict: bool) -> DecidingCells:
        """Return the cells that fail on `bad` and not on `good`; with `strict` also those that only `bad` skips."""
        failed = {name: cell.verdict for name, cell in bad.failed().items() if name not in good.failed()}
        skipped = {cell.name: cell.verdict for cell in bad.cells if cell.verdict is Verdict.SKIP} if strict else {}
        return cls({**failed, **{name: verdict for name, verdict in skipped.items() if name in good.held}})

    @property
    def names(self) -> set[str]:
        """The names of the cells."""
        return set(self.verdicts)

    def rule(self, test: CommitTest) -> Step:
        """Rule a commit: bad if a deciding cell ends as on the bad end, good if none fails and one passes.

        Otherwise it is skipped: another failure shows nothing about the one that is looked for.
        """
        cells = [cell for cell in test.cells if cell.name in self.verdicts]
        same = next((cell for cell in cells if cell.verdict is self.verdicts[cell.name]), None)
        if same:
            return Step(test, Ruling.BAD, str(same), same.results)
        if other := next((cell for cell in cells if cell.failed), None):
            why = f"{other} (another failure: on --bad it is {self.verdicts[other.name].value})"
            return Step(test, Ruling.SKIP, why, other.results, another_failure=True)
        if obstacle := test.obstacle or next((str(cell) for cell in cells if cell.verdict in _UNDECIDED), ""):
            return Step(test, Ruling.SKIP, obstacle, test.results)
        held = [cell for cell in cells if cell.held]
        if len(cells) < len(self.verdicts):
            return Step(test, Ruling.SKIP, f"{len(self.verdicts) - len(cells)} cells did not run", test.results)
        if not held:
            return Step(test, Ruling.SKIP, every_cell_was_skipped(cells), test.results)
        others = test.failed().keys() - self.names
        also = f"; {len(others)} that do not decide failed" if others else ""
        return Step(test, Ruling.GOOD, f"{count_cells(held)} passed{also}", test.results)


def every_cell_was_skipped(cells: Sequence[CellEnd]) -> str:
    """Return a sentence with the reason of the first skipped cell."""
    reason = next((cell.reason for cell in cells if cell.reason), "")
    return f"every cell was skipped{f': {reason}' if reason else ''}"


def count_cells(cells: Sequence[object]) -> str:
    """Return `1 cell` or `N cells`."""
    return f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"


def worst_of(tests: Iterable[CommitTest]) -> CommitTest:
    """Return the tests of one commit as one: the most severe end of each cell, and the sum of the seconds."""
    first, *others = tests
    cells = {cell.name: cell for cell in first.cells}
    merged = first
    for test in others:
        for cell in test.cells:
            known = cells.get(cell.name)
            if known is None or cell.verdict.severity > known.verdict.severity:
                cells[cell.name] = cell
        merged = replace(
            merged,
            obstacle=test.obstacle or merged.obstacle,
            results=test.results or merged.results,
            seconds=merged.seconds + test.seconds,
            processor_seconds=merged.processor_seconds + test.processor_seconds,
            final=merged.final and test.final,
        )
    return replace(merged, cells=tuple(cells.values()))


class RecordedTests:
    """The tested commits of a bisection, in a file with a JSON object on each line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, CommitTest]:
        """Return the last test of each commit; a line that is damaged or of another version is ignored."""
        found: dict[str, CommitTest] = {}
        content = self._path.read_text(errors="replace") if self._path.is_file() else ""
        for line in content.splitlines():
            try:
                fields = json.loads(line)
                cells = (CellEnd(**{**cell, "verdict": Verdict(cell["verdict"])}) for cell in fields.pop("cells"))
                test = CommitTest(**fields, cells=tuple(cells))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            found.pop(test.commit, None)
            found[test.commit] = test
        return found

    def append(self, test: CommitTest) -> None:
        """Add a test; after a line that a crash cut off, on a line of its own."""
        fields = asdict(test)
        for cell in fields["cells"]:
            cell["verdict"] = cell["verdict"].value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 1))
            start = "" if stream.read() in (b"", b"\n") else "\n"
            stream.write(f"{start}{json.dumps(fields)}\n".encode())

    def forget(self) -> None:
        """Remove all tests."""
        self._path.unlink(missing_ok=True)
