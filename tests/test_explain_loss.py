"""The cause of a loss: a guest that answers after a channel was closed does not hang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.guest.result import Result
from harness.matrix.cells.cell_phases_and_verdict import verdict_of_error
from harness.matrix.guests import check_after_cell
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.liveness import Condition, Diagnosis


@pytest.mark.parametrize(
    ("lost", "answer", "condition", "verdict"),
    [
        (GuestLost("Channel closed."), None, Condition.ALIVE, Verdict.HARNESS_ERROR),
        (GuestLost("Channel closed."), None, Condition.SLOW, Verdict.HARNESS_ERROR),
        (GuestLost("Channel closed."), GuestLost("Channel closed."), Condition.ALIVE, Verdict.HANG),
        (GuestLost("Channel closed."), DeadlineExceeded("no answer"), Condition.ALIVE, Verdict.HANG),
        (GuestLost("Channel closed."), None, Condition.SOFT_HANG, Verdict.HANG),
        (GuestError("refused"), None, Condition.ALIVE, Verdict.HARNESS_ERROR),
    ],
)
def test_a_guest_that_answers_after_a_closed_channel_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
    lost: GuestError,
    answer: Exception | None,
    condition: Condition,
    verdict: Verdict,
) -> None:
    def run(*_: str, **__: object) -> Result:
        if answer:
            raise answer
        return Result("a-vm", ("true",), 0, b"", b"", 0.0)

    guest: Any = SimpleNamespace(
        name="a-vm",
        console=SimpleNamespace(lines=lambda _: []),
        fence_position=0,
        image=SimpleNamespace(recipe=SimpleNamespace(boot_noise=())),
        qemu_process=SimpleNamespace(stopped=False),
        heartbeat=object(),
        run=run,
        scaled_deadline=lambda seconds: seconds,
    )
    monkeypatch.setattr(check_after_cell, "diagnose_guest", lambda *_: Diagnosis(condition, ""))
    monkeypatch.setattr(check_after_cell, "make_symbolizer", lambda _: hex)
    found = check_after_cell.explain_loss(guest, lost)
    assert verdict_of_error(found) is verdict
    # An error of a request, not of the connection, stays what it is.
    assert (found is lost) is (type(lost) is GuestError or (answer is not None and condition is Condition.ALIVE))
