"""The end of one of the kernel's own tests, and what it means for a cell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

import pytest

from harness.landing.landing_judgment import Missed
from harness.verdict.cell_verdict_enum import end_as_known_fail

_SHOWN_LINES = 30
# The lines that the last pipeline of a test adds to its log, at most.
_PIPELINE = 5


class End(Enum):
    """How a test ended, in the words of tools/testing/selftests/ftrace/ftracetest and of KTAP."""

    PASS = "pass"
    FAIL = "fail"
    NOT_DECIDED = "not decided"
    """UNRESOLVED, UNTESTED or UNSUPPORTED of ftracetest, SKIP of KTAP: the test states that it proved nothing."""
    EXPECTED_FAIL = "expected fail"
    """XFAIL of ftracetest: the test failed, and its author expects that."""


@dataclass(frozen=True)
class Outcome:
    """The end of the test `test`: the word that it printed, why in one line, and its log."""

    test: str
    end: End
    word: str
    why: str = ""
    log: tuple[str, ...] = ()

    @property
    def decided(self) -> bool:
        """True if the test proved something: it was not skipped."""
        return self.end is not End.NOT_DECIDED

    def raise_failure(self) -> None:
        """Raise Missed with the end of the log if the test failed. Call it while the guest runs, for its evidence."""
        if self.end is End.FAIL:
            raise Missed("\n".join([f"{self.test}: {self._text}", *self.log[-_SHOWN_LINES:]]))

    def demand_failure(self, beginning: str, cause: str) -> None:
        """Raise Missed unless the test failed as a documented defect of the kernel makes it fail."""
        if self.end is not End.FAIL or not self.why.startswith(beginning):
            wanted = f"{self.test}: {self._text}, not {beginning!r}, as it fails by {cause}"
            raise Missed("\n".join([wanted, *self.log[-_SHOWN_LINES:]]))

    def demand_failure_at(self, command: str, cause: str) -> None:
        """Raise Missed unless the test failed at a command, as a documented cause makes it fail.

        The shell traces the commands of a pipeline in any order.
        """
        last = [line.lstrip("+ ") for line in self.log[-_PIPELINE:]]
        if self.end is not End.FAIL or command not in last:
            wanted = f"{self.test}: {self._text}, not at `{command}`, as it fails by {cause}"
            raise Missed("\n".join([wanted, *self.log[-_SHOWN_LINES:]]))

    def demand_loss(self, cause: str) -> NoReturn:
        """Raise Missed, because the test ended although by a documented defect of the kernel the guest is lost."""
        wanted = f"{self.test}: {self._text}, and the guest survived, as it does not by {cause}"
        raise Missed("\n".join([wanted, *self.log[-_SHOWN_LINES:]]))

    def end_cell(self, release: str) -> None:
        """Skip if the test decided nothing, end as known-fail if its author expects its failure."""
        if not self.decided:
            pytest.skip(f"{self.test}: {self._text}")
        if self.end is End.EXPECTED_FAIL:
            end_as_known_fail(f"{self.test} ({release}): its author expects this failure: {self._text}")

    @property
    def _text(self) -> str:
        return f"{self.word}: {self.why}" if self.why else self.word
