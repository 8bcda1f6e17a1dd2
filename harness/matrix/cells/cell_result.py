"""One cell from its first phase to its verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.core.errors import BootError, DeadlineExceeded, GuestError, GuestLost, PinpointError
from harness.guest.guest import Guest
from harness.landing.landing import Missed
from harness.landing.probe_run import Kprobes
from harness.matrix.cells.selection import CellId
from harness.matrix.guests.checkup import KernelComplained, LeftBehind
from harness.report.evidence import Evidence
from harness.report.record import Cell
from harness.verdict.liveness import GuestDied
from harness.verdict.printk import plain
from harness.verdict.verdict import Verdict

# What is told without a traceback: it is about the guest, the kernel or the host, not about our code.
TOLD_PLAINLY = (Missed, PinpointError, KernelComplained, LeftBehind)


class MutantSurvivedError(AssertionError):
    """A case held for a probe that was broken on purpose: the case proves nothing on this VM."""


@dataclass
class CellWatch:
    """What is gathered of a cell while its phases run.

    `failed_with` and `told` are the first failure and how pytest tells it, `evidence` what the guest told then; a
    `final` verdict is not changed by what a person did to the guest afterwards. `unexplained`: the verdict is that
    the guest refused something, or that its connection broke; `explained`: it is known why.
    """

    identity: CellId
    traits: dict[str, bool]
    began: float = field(default_factory=time.monotonic)
    verdict: Verdict = Verdict.PASS
    reason: str = ""
    guest: Guest | None = None
    kprobes: Kprobes | None = None
    failed_with: BaseException | None = None
    told: str = ""
    evidence: Evidence | None = None
    bundle: str = ""
    final: bool = False
    unexplained: bool = False
    explained: bool = False

    def give(self, guest: Guest) -> None:
        """The row's guest is there: the cell's seconds count from here, not from when it began to wait for a build."""
        self.guest, self.began = guest, time.monotonic()

    def worse(self, verdict: Verdict, reason: str) -> None:
        """Take a verdict if it is worse than what the cell has."""
        if verdict.severity > self.verdict.severity and not self.final:
            self.verdict, self.reason = verdict, reason

    def judge(self, error: BaseException) -> None:
        """Take what a phase of the cell raised into the verdict; several fixtures that fail to end raise a group.

        What the guest refused, or that its connection broke, is explained by what its kernel then turns out to have
        complained of, or by what became of it. That no heartbeat comes is a hang, whatever was complained of before.
        """
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                self.judge(each)
            return
        kernels = isinstance(error, KernelComplained | GuestDied)
        riddle = type(error) is GuestError or (type(error) is GuestLost and not self._hangs)
        if riddle and self.explained:
            return
        if kernels and self.unexplained and not self.final:
            self.verdict, self.unexplained = Verdict.PASS, False
        self.explained |= kernels
        self.unexplained |= riddle and self.verdict is not Verdict.HARNESS_ERROR
        self.worse(verdict_of(error), one_line(error))

    @property
    def _hangs(self) -> bool:
        return bool(self.guest and self.guest.heart and self.guest.heart.silence)

    def let_go(self) -> None:
        """Keep the verdict only: pytest keeps every item to the end, and with it all that hangs on it."""
        self.guest = self.kprobes = self.failed_with = self.evidence = None

    def record(self) -> Cell:
        """The cell as the results file keeps it."""
        guest = self.guest
        return Cell(
            case=self.identity.case,
            vm=self.identity.vm,
            verdict=self.verdict,
            reason=self.reason,
            seconds=round(time.monotonic() - self.began, 3),
            kernel_release=guest.image.release if guest else "",
            arch=guest.image.recipe.arch if guest else "",
            accelerator=guest.accelerator.name if guest else "",
            traits=self.traits,
            image_key=guest.image.key if guest else "",
            witnesses=self._witnesses(),
            mutant=self.identity.mutant,
            bundle=self.bundle,
        )

    def _witnesses(self) -> list[dict[str, Any]]:
        lives = self.kprobes.lives if self.kprobes else []
        return [landing.record() for life in lives if life.ended for landing in life.landings]


def verdict_of(error: BaseException) -> Verdict:
    """The word for what a phase raised."""
    match error:
        case KernelComplained() | GuestDied():
            return error.verdict
        case BootError():
            return Verdict.BOOT_FAIL
        case GuestLost() | DeadlineExceeded():
            return Verdict.HANG
        case PinpointError():
            return Verdict.HARNESS_ERROR
        case pytest.skip.Exception():
            return Verdict.SKIP
        case pytest.xfail.Exception():
            return Verdict.KNOWN_FAIL
        case AssertionError() | pytest.fail.Exception():
            return Verdict.FAIL
    return Verdict.HARNESS_ERROR


def demand_caught(watch: CellWatch, error: BaseException | None) -> None:
    """A mutant's cell holds only if the case raised Missed; anything else it raised goes on."""
    if error is None:
        raise MutantSurvivedError(f"mutant {watch.identity.mutant} was not caught by {watch.identity.case}")
    if not isinstance(error, Missed):
        raise error


def without_proof(watch: CellWatch, survivors: Sequence[CellId]) -> str:
    """Fail an honest cell whose mutants survived; why it is, empty when none did."""
    if not survivors:
        return ""
    reason = f"its mutants survived: {', '.join(each.mutant for each in survivors)}"
    watch.worse(Verdict.FAIL, reason)
    return reason


def one_line(error: BaseException) -> str:
    """The first line of what an error says, without control codes, or its name."""
    text = plain(str(error)).strip() or type(error).__name__
    return text.splitlines()[0]
