"""A guest that is lost while no cell runs in it: before its first cell, or between two. The next cell does not run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from harness.core.errors import BootError, DeadlineExceeded, GuestLost, HostError, PinpointError
from harness.guest.guest import Guest
from harness.matrix.guests import check_after_cell, loaded_targets
from harness.matrix.guests.check_after_cell import KernelComplained
from harness.report.failure_evidence import Evidence, gather_evidence
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.liveness import GuestDied

# A guest that has been idle for longer must answer before a cell begins in it: no heartbeat is sent to an idle guest.
_LONGEST_IDLE_SECONDS = 5.0
_ANSWER_SECONDS = 60.0


class LostBeforeCell(PinpointError):
    """A guest was lost while no cell ran in it. The cell that was to run in it did not run.

    `evidence` was read from `guest` before it was stopped. The verdict is never `hang` or `panic`, which are about what
    a cell did: a guest that was lost before its first cell did not come up (`boot-fail`), and between two cells nothing
    shows which of them is the cause (`harness-error`).
    """

    def __init__(self, what: str, verdict: Verdict, guest: Guest, evidence: Evidence) -> None:
        super().__init__(what)
        self.verdict = verdict
        self.guest = guest
        self.evidence = evidence


@contextmanager
def report_loss_before_first_cell(guest: Guest) -> Iterator[None]:
    """Raise LostBeforeCell if the guest is lost in this block. The caller stops the guest.

    An oops or a warning of the kernel, and every other error, is raised as it is.
    """
    with _explained(guest, "before its first cell", Verdict.BOOT_FAIL.worse_of):
        yield


def prepare_for_cell(guest: Guest, builds: Collection[str], previous: str) -> None:
    """Unload a kept target that the cell does not request; a guest that was idle must answer first.

    `previous` is the name of the cell that ran before in this guest, empty if none did. Raises LostBeforeCell.
    """
    when = f"after {previous}, before the next cell began" if previous else "before its first cell began"
    with _explained(guest, when, lambda _: Verdict.HARNESS_ERROR):
        if check_after_cell.seconds_since_check(guest) > _LONGEST_IDLE_SECONDS:
            guest.run_script(":", guest.scaled_deadline(_ANSWER_SECONDS)).check()
        loaded_targets.unload_unwanted_target(guest, builds)


@contextmanager
def _explained(guest: Guest, when: str, verdict_for: Callable[[Verdict], Verdict]) -> Iterator[None]:
    """Raise LostBeforeCell for a loss in this block; `verdict_for` maps the verdict that a running cell would get."""
    try:
        with check_after_cell.replace_loss_by_explanation(guest):
            yield
    except Exception as error:
        verdict = _verdict_of_loss(error)
        if verdict is None:
            raise
        what = f"the cell did not run: its guest was lost {when}: {error}"
        raise LostBeforeCell(what, verdict_for(verdict), guest, gather_evidence(guest, error)) from error


def _verdict_of_loss(error: Exception) -> Verdict | None:
    """Return the verdict that a running cell would get for the loss of its guest; None for an error of another kind."""
    match error:
        case KernelComplained() if error.verdict not in (Verdict.HANG, Verdict.PANIC):
            return None
        case KernelComplained() | GuestDied():
            return error.verdict
        case HostError() | BootError():
            return None
        case GuestLost():
            return Verdict.HARNESS_ERROR if error.stopped_by_harness else Verdict.HANG
        case DeadlineExceeded():
            return Verdict.HANG
    return None
