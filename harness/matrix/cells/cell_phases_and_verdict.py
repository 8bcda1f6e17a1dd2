"""The state of one cell, from its first phase to its verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.core.errors import BootError, DeadlineExceeded, GuestError, GuestLost, HostError, PinpointError
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.probe_run import Kprobes, ProbeRun
from harness.matrix.cells.selection import CellId
from harness.matrix.guests.check_after_cell import GuestStateChanged, KernelComplained, UnexplainedCrash
from harness.matrix.guests.freezer import FreezeFailed
from harness.matrix.guests.loss_before_cell import LostBeforeCell
from harness.report.failure_evidence import Evidence
from harness.report.record import Cell
from harness.userspace.probe_run import UprobeRun
from harness.userspace.uprobes_fixture import Uprobes
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.liveness import GuestDied
from harness.verdict.printk import without_control_codes

# Errors that are reported without a traceback, because they are about the guest, the kernel or the host, not our code.
REPORTED_PLAINLY = (Missed, PinpointError, KernelComplained, GuestStateChanged, UnexplainedCrash)


class MutantSurvivedError(AssertionError):
    """A case passed although its probe was broken on purpose, so it proves nothing on this VM."""


@dataclass
class CellWatch:
    """The state of a cell while its phases run.

    `failed_with` is the first failure, `failure_text` is pytest's report of it, and `evidence` is what was read from
    the guest then. A `final` verdict does not change, whatever a person does to the guest afterwards.
    `only_symptom_known` is true if the verdict comes from a refused request or a broken connection; `cause_known`
    is true if the cause is known. `is_undiagnosed_hang` is true if the verdict is a hang and the reason is the error of
    one request.
    """

    identity: CellId
    traits: dict[str, bool]
    began: float = field(default_factory=time.monotonic)
    verdict: Verdict = Verdict.PASS
    reason: str = ""
    guest: Guest | None = None
    kprobes: Kprobes | None = None
    uprobes: Uprobes | None = None
    failed_with: BaseException | None = None
    failure_text: str = ""
    evidence: Evidence | None = None
    bundle: str = ""
    only_killers: Sequence[str] = ()
    final: bool = False
    only_symptom_known: bool = False
    cause_known: bool = False
    is_undiagnosed_hang: bool = False

    def start_on(self, guest: Guest) -> None:
        """Start the cell's clock when its guest is ready, so that the wait for a build does not count."""
        self.guest, self.began = guest, time.monotonic()

    def set_if_worse(self, verdict: Verdict, reason: str) -> None:
        """Set the verdict if it is worse than the current one."""
        if verdict.severity > self.verdict.severity and not self.final:
            self.verdict, self.reason = verdict, reason

    def judge(self, error: BaseException) -> None:
        """Set the verdict from the error of a phase; an exception group comes from several fixtures whose end failed.

        A refused request or a broken connection is only a symptom. A kernel complaint or the guest's death, found
        later, explains it and replaces its verdict. A missing heartbeat is a hang even after a kernel complaint. The
        cause of a hang, such as the places of its CPUs or a lockup that the kernel reported, replaces the reason from
        the request that noticed it.
        """
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                self.judge(each)
            return
        cause = isinstance(error, KernelComplained | GuestDied)
        symptom = type(error) is GuestError or (type(error) is GuestLost and not self._hangs)
        if symptom and self.cause_known:
            return
        verdict = verdict_of_error(error)
        diagnosed = cause and verdict is Verdict.HANG and self.is_undiagnosed_hang
        if ((cause and self.only_symptom_known) or diagnosed) and not self.final:
            self.verdict, self.only_symptom_known = Verdict.PASS, False
        self.cause_known |= cause
        self.only_symptom_known |= symptom and self.verdict is not Verdict.HARNESS_ERROR
        if verdict.severity > self.verdict.severity:
            self.is_undiagnosed_hang = verdict is Verdict.HANG and not cause
        self.set_if_worse(verdict, first_line_of_error(error))

    @property
    def _hangs(self) -> bool:
        return bool(self.guest and self.guest.heartbeat and self.guest.heartbeat.silence)

    def drop_references(self) -> None:
        """Drop all references: pytest keeps each item, and what the item refers to, until the end of the run."""
        self.guest = self.kprobes = self.uprobes = self.failed_with = self.evidence = None

    def as_record(self) -> Cell:
        """Return the cell as a record of the results file."""
        guest = self.guest
        return Cell(
            file=self.identity.file,
            case=self.identity.case,
            vm=self.identity.vm,
            verdict=self.verdict,
            reason=self.reason,
            seconds=round(time.monotonic() - self.began, 3),
            kernel_release=guest.image.release if guest else "",
            arch=guest.image.recipe.arch if guest else "",
            accelerator=guest.accelerator.name if guest else "",
            qemu=guest.qemu_version_text if guest else "",
            traits=self.traits,
            image_key=guest.image.key if guest else "",
            witnesses=self._witnesses(),
            mutant=self.identity.mutant,
            bundle=self.bundle,
            only_killers=list(self.only_killers),
        )

    def _witnesses(self) -> list[dict[str, Any]]:
        lives: list[ProbeRun | UprobeRun] = [*(self.kprobes.lives if self.kprobes else [])]
        lives += self.uprobes.lives if self.uprobes else []
        return [landing.record() for life in lives if life.is_ended for landing in life.landings]


def verdict_of_error(error: BaseException) -> Verdict:
    """Return the verdict for an error that a phase raised."""
    match error:
        case KernelComplained() | GuestDied() | FreezeFailed() | LostBeforeCell():
            return error.verdict
        case UnexplainedCrash():
            return Verdict.OOPS
        case BootError():
            return Verdict.BOOT_FAIL
        case HostError():
            return Verdict.HARNESS_ERROR
        case GuestLost() if error.stopped_by_harness:
            return Verdict.HARNESS_ERROR
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
    """Let a mutant's cell pass only if the case raised Missed; raise any other error again."""
    if error is None:
        raise MutantSurvivedError(f"mutant {watch.identity.mutant} was not caught by {watch.identity.case}")
    if not isinstance(error, Missed):
        raise error
    watch.only_killers = error.only_killers


def fail_cell_if_mutants_survived(watch: CellWatch, survivors: Sequence[CellId]) -> str:
    """Fail an honest cell whose mutants survived; return the reason, empty when none did."""
    if not survivors:
        return ""
    reason = f"its mutants survived: {', '.join(each.mutant for each in survivors)}"
    watch.set_if_worse(Verdict.FAIL, reason)
    return reason


def first_line_of_error(error: BaseException) -> str:
    """Return the first line of an error's message without control codes, or the name of its type if there is none."""
    text = without_control_codes(str(error)).strip() or type(error).__name__
    return text.splitlines()[0]
