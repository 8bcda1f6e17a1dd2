"""A guest that is lost while no cell runs in it fails the cell that did not run, and never as a hang of that cell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import test_cells

from harness.core.errors import BootError, DeadlineExceeded, GuestError, GuestLost, HostError
from harness.core.events import Bus
from harness.guest.boot_clock_check import GuestClockWrong
from harness.guest.guest import Guest
from harness.matrix.cells import guest_of_cell
from harness.matrix.cells.cell_phases_and_verdict import CellWatch, verdict_of_error
from harness.matrix.cells.selection import CellId
from harness.matrix.guests import check_after_cell, fleet, loaded_targets, loss_before_cell
from harness.matrix.guests.loss_before_cell import LostBeforeCell
from harness.report.failure_evidence import Evidence
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.liveness import Condition, Diagnosis, GuestDied

EVIDENCE = Evidence({"registers.txt": b"rip"})


def died(condition: Condition) -> GuestDied:
    return GuestDied(Diagnosis(condition, "seen so"), where="a-vm")


class StandInGuest:
    """A guest whose answer to each request is an error, if there is one."""

    def __init__(self) -> None:
        self.name, self.qemu_version_text, self.stopped = "a-vm", "", False
        self.image = SimpleNamespace(release="6.1", key="k", recipe=SimpleNamespace(arch="x86_64"))
        self.accelerator = SimpleNamespace(name="tcg")
        self.asked: list[str] = []
        self.error: Exception | None = None

    def stop(self) -> None:
        self.stopped = True

    def scaled_deadline(self, seconds: float) -> float:
        return seconds

    def run_script(self, script: str, _deadline: object) -> Any:  # noqa: ANN401 - stands in
        self.asked.append(script)
        if self.error:
            raise self.error
        return SimpleNamespace(check=lambda: None)


class Row:
    """A row of real code around stand-ins for guests; `lose` is raised where the next guest's state is recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lose: Exception | None = None
        self.guests: list[StandInGuest] = []
        self.idle_seconds = 0.0
        monkeypatch.setattr(check_after_cell, "record_state_before_first_cell", self._record)
        monkeypatch.setattr(check_after_cell, "seconds_since_check", lambda _: self.idle_seconds)
        monkeypatch.setattr(check_after_cell, "explain_loss", lambda _, lost: lost)
        monkeypatch.setattr(loss_before_cell, "gather_evidence", lambda *_: EVIDENCE)
        context = SimpleNamespace(slots=SimpleNamespace(cores=2))
        given: Any = {"build_context": context, "bus": Bus(), "directory": None, "forced_accelerator": None}
        self.fleet = fleet.Fleet([], **given)
        image = SimpleNamespace(recipe=SimpleNamespace(kernel=SimpleNamespace(sibling="")))
        monkeypatch.setattr(self.fleet, "_prepare", lambda _: image)
        monkeypatch.setattr(self.fleet, "_thaw", lambda *_: self._thaw())

    def _thaw(self) -> StandInGuest:
        self.guests.append(StandInGuest())
        return self.guests[-1]

    def _record(self, _guest: object) -> None:
        if self.lose:
            raise self.lose

    def cell(self, name: str = "test_it") -> CellWatch:
        """Begin a cell; return its watch, which has judged the error if there was one."""
        watch = CellWatch(CellId(name, "a-vm", "", f"{name}[a-vm]"), {})
        try:
            guest_of_cell.begin_in_guest(self.fleet, watch, [])
        except Exception as error:
            watch.judge(error)
        return watch


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Row:
    return Row(monkeypatch)


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        (died(Condition.SOFT_HANG), Verdict.BOOT_FAIL),
        (died(Condition.HARD_HANG), Verdict.BOOT_FAIL),
        (died(Condition.PANICKED), Verdict.BOOT_FAIL),
        (died(Condition.QEMU_DIED), Verdict.HARNESS_ERROR),
        (died(Condition.OUR_FAULT), Verdict.HARNESS_ERROR),
        (GuestLost("the console closed"), Verdict.BOOT_FAIL),
        (GuestLost("the guest stopped: SHUTDOWN host-qmp-quit"), Verdict.HARNESS_ERROR),
        (DeadlineExceeded("`cat x` did not end in time"), Verdict.BOOT_FAIL),
        (test_cells.LOCKUP, Verdict.BOOT_FAIL),
    ],
)
def test_a_guest_lost_before_its_first_cell_is_no_hang_of_a_cell(row: Row, loss: Exception, verdict: Verdict) -> None:
    row.lose = loss
    lost = row.cell()
    assert lost.verdict is verdict
    assert lost.reason == f"the cell did not run: its guest was lost before its first cell: {loss}".splitlines()[0]
    assert (lost.evidence, cast(Any, lost.guest)) == (EVIDENCE, row.guests[0])
    assert row.guests[0].stopped
    # It concerns that guest alone: the next cell runs in another.
    row.lose = None
    assert (row.cell().verdict, len(row.guests)) == (Verdict.PASS, 2)


def test_a_wrong_clock_at_boot_concerns_that_guest_alone(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(*_: object) -> None:
        raise GuestClockWrong("its clock runs 22 times as fast")

    with monkeypatch.context() as changed:
        changed.setattr(row.fleet, "_thaw", boot)
        assert row.cell().verdict is Verdict.HARNESS_ERROR
    assert row.cell().verdict is Verdict.PASS


def test_three_guests_lost_before_their_first_cell_are_enough_for_a_row(row: Row) -> None:
    row.lose = died(Condition.HARD_HANG)
    assert [row.cell().verdict for _ in range(5)] == [Verdict.BOOT_FAIL] * 5
    assert len(row.guests) == 3


@pytest.mark.parametrize("error", [HostError("no room"), BootError("panic"), GuestError("refused"), test_cells.OOPS])
def test_other_errors_before_the_first_cell_stay_as_they_are(row: Row, error: Exception) -> None:
    row.lose = error
    lost = row.cell()
    assert (lost.verdict, lost.evidence) == (verdict_of_error(error), None)
    row.lose = None
    row.cell()
    assert len(row.guests) == 1


@pytest.mark.parametrize("loss", [died(Condition.SOFT_HANG), DeadlineExceeded("no answer in time"), test_cells.LOCKUP])
def test_a_guest_lost_between_two_cells_is_replaced_and_the_cell_before_is_named(row: Row, loss: Exception) -> None:
    assert row.cell("test_first").verdict is Verdict.PASS
    row.idle_seconds, row.guests[0].error = 100.0, loss
    lost = row.cell("test_second")
    assert lost.verdict is Verdict.HARNESS_ERROR
    where = "its guest was lost after test_first[a-vm], before the next cell began"
    assert lost.reason == f"the cell did not run: {where}: {loss}".splitlines()[0]
    assert (lost.evidence, row.guests[0].stopped) == (EVIDENCE, True)
    assert row.cell("test_third").verdict is Verdict.PASS
    assert len(row.guests) == 2


def test_a_guest_that_cannot_unload_the_target_before_a_cell_is_replaced(
    row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    row.cell("test_first")

    def refuse(*_: object) -> None:
        raise GuestError("rmmod: in use")

    monkeypatch.setattr(loaded_targets, "unload_unwanted_target", refuse)
    assert row.cell("test_second").verdict is Verdict.HARNESS_ERROR
    monkeypatch.undo()
    assert row.guests[0].stopped


def test_only_a_guest_that_was_idle_is_queried_before_a_cell(row: Row) -> None:
    row.cell()
    row.cell()
    assert row.guests[0].asked == []
    row.idle_seconds = 100.0
    row.cell()
    assert row.guests[0].asked == [":"]


def test_the_verdict_is_that_of_the_loss() -> None:
    lost = LostBeforeCell("why", Verdict.BOOT_FAIL, cast(Guest, None), EVIDENCE)
    assert verdict_of_error(lost) is Verdict.BOOT_FAIL
