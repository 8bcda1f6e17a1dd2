"""The verdict of a cell follows from what its phases raised."""

from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.errors import BootError, DeadlineExceeded, GuestError, GuestLost, HostError
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.matrix.cells.cell_phases_and_verdict import CellWatch, MutantSurvivedError, demand_caught, verdict_of_error
from harness.matrix.cells.selection import CellId
from harness.matrix.guests.check_after_cell import KernelComplained
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint
from harness.verdict.liveness import Condition, Diagnosis, GuestDied


def watch(mutant: str = "") -> CellWatch:
    return CellWatch(CellId("test_it", "parisc", mutant, "test_it[parisc]"), {})


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Missed("elsewhere"), Verdict.FAIL),
        (AssertionError("no"), Verdict.FAIL),
        (BootError("no console"), Verdict.BOOT_FAIL),
        (GuestLost("no answer"), Verdict.HANG),
        (GuestLost("the guest stopped: SHUTDOWN guest-reset"), Verdict.HANG),
        (GuestLost("the guest stopped: SHUTDOWN host-qmp-quit"), Verdict.HARNESS_ERROR),
        (DeadlineExceeded("too late"), Verdict.HANG),
        (HostError("disk full"), Verdict.HARNESS_ERROR),
        (pytest.skip.Exception("no such trait"), Verdict.SKIP),
        (pytest.xfail.Exception("documented"), Verdict.KNOWN_FAIL),
        (ZeroDivisionError("a bug of the case"), Verdict.HARNESS_ERROR),
    ],
)
def test_words(error: BaseException, verdict: Verdict) -> None:
    assert verdict_of_error(error) is verdict


def test_what_a_cell_waited_for_its_guest_is_none_of_its_seconds() -> None:
    cell = watch()
    cell.began -= 1000
    assert cell.as_record().seconds >= 1000
    image = SimpleNamespace(release="6.1", key="k", recipe=SimpleNamespace(arch="parisc"))
    cell.start_on(
        cast(Guest, SimpleNamespace(image=image, qemu_version_text="", accelerator=SimpleNamespace(name="tcg")))
    )
    assert cell.as_record().seconds < 1000


def test_the_worst_phase_wins() -> None:
    cell = watch()
    cell.judge(GuestLost("no answer"))
    cell.judge(AssertionError("and a wrong result"))
    assert cell.verdict is Verdict.HANG
    assert cell.reason == "no answer"


def test_fixtures_that_fail_to_end_are_judged_one_by_one() -> None:
    cell = watch()
    panic = KernelComplained([Complaint(ComplaintKind.PANIC, "Kernel panic - not syncing: no", "", ())], {})
    cell.judge(ExceptionGroup("errors while tearing down", [GuestLost("no answer"), panic]))
    assert (cell.verdict, cell.reason) == (Verdict.PANIC, "Kernel panic - not syncing: no")


def test_a_complaint_explains_what_the_guest_refused_but_not_what_the_host_did() -> None:
    oops = KernelComplained([Complaint(ComplaintKind.FAULT, "Oops", "", ())], {})
    for error, verdict in ((GuestError("insmod failed"), Verdict.OOPS), (HostError("no"), Verdict.HARNESS_ERROR)):
        for first, second in ((error, oops), (oops, error)):
            cell = watch()
            cell.judge(first)
            cell.judge(second)
            assert cell.verdict is verdict


def test_a_broken_connection_is_explained_by_the_kernel_but_a_hang_is_a_hang() -> None:
    """This was seen when the out-of-memory killer killed the SSH server, too."""
    killer = KernelComplained([Complaint(ComplaintKind.OUT_OF_MEMORY, "sh invoked oom-killer", "", ())], {})
    broken = GuestLost("the SSH connection broke")
    for silence, verdict in ((None, Verdict.OOPS), (object(), Verdict.HANG)):
        for first, second in ((broken, killer), (killer, broken)):
            cell = watch()
            cell.guest = cast(Guest, SimpleNamespace(heartbeat=SimpleNamespace(silence=silence)))
            cell.judge(first)
            cell.judge(second)
            assert cell.verdict is verdict


SOFT = GuestDied(Diagnosis(Condition.SOFT_HANG, "no heartbeat for 4.0 beats; CPU 0 at f+0x4 (12/12)"), where="vm")
NOTICED = GuestLost("the guest hangs: no heartbeat for 4.0 beats of 3.0 s, during `cat x`", where="vm")
LATE = DeadlineExceeded("`cat x` did not end in time", where="vm")
LOCKUP = KernelComplained([Complaint(ComplaintKind.LOCKUP, "BUG: soft lockup", "", ())], {})
OOPS = KernelComplained([Complaint(ComplaintKind.FAULT, "Oops", "", ())], {})


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        # The call phase raises the first error, the check-up after it the second.
        ((NOTICED, SOFT), str(SOFT)),
        ((LATE, SOFT), str(SOFT)),
        ((SOFT, NOTICED), str(SOFT)),
        ((NOTICED, LATE), str(NOTICED)),
        # The kernel's own report of a lockup is a reason as well. An oops is not the reason of a hang.
        ((LOCKUP, SOFT), "BUG: soft lockup"),
        ((NOTICED, LOCKUP), "BUG: soft lockup"),
        ((NOTICED, OOPS), str(NOTICED)),
        ((OOPS, NOTICED, SOFT), str(SOFT)),
    ],
)
def test_the_reason_of_a_hang_is_its_cause(errors: tuple[Exception, ...], reason: str) -> None:
    cell = watch()
    cell.guest = cast(Guest, SimpleNamespace(heartbeat=SimpleNamespace(silence=object())))
    for error in errors:
        cell.judge(error)
    assert (cell.verdict, cell.reason) == (Verdict.HANG, reason)


def test_a_diagnosis_changes_no_final_reason() -> None:
    cell = watch()
    cell.guest = cast(Guest, SimpleNamespace(heartbeat=SimpleNamespace(silence=object())))
    cell.judge(NOTICED)
    cell.final = True
    cell.judge(SOFT)
    assert (cell.verdict, cell.reason) == (Verdict.HANG, str(NOTICED))


def test_a_mutant_that_nothing_catches_fails() -> None:
    with pytest.raises(MutantSurvivedError, match="one-instruction-off"):
        demand_caught(watch("one-instruction-off"), None)


def test_a_mutant_is_caught_by_missed_only() -> None:
    demand_caught(watch("one-instruction-off"), Missed("elsewhere"))
    with pytest.raises(GuestLost):
        demand_caught(watch("one-instruction-off"), GuestLost("died of something else"))
