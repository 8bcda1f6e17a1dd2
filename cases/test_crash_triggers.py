"""Each crash trigger is classified correctly, and the time until a dead guest is detected is measured.

The triggers are fired in guests of their own. An oops, warning, panic or hang that the harness misses would make every
other verdict of the matrix worthless. `--crash-triggers all` adds triggers that take seconds, and those that hang or
reset the guest.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest

from harness.guest.guest import Guest
from harness.report.metrics_with_goals import Figure
from harness.verdict.crash_triggers import HANG, QUICK, RESET, SLOW, CrashModule, TriggerResult
from harness.verdict.liveness import Condition

Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.deep
def test_crash_triggers_are_read_right(fresh: Fresh, figure: Callable[..., Figure]) -> None:
    """Each trigger that this kernel can detect is reported with its kind and place. The last one ends the guest."""
    outcomes: list[TriggerResult] = []
    with fresh(may_die=True) as guest:
        criminal = CrashModule(guest)
        for trigger in criminal.detectable_triggers(QUICK):
            outcomes.append(criminal.fire(trigger))
            if outcomes[-1].guest_died:
                break
    keep(figure, outcomes)
    panic = outcomes[-1]
    figure("panic.to_verdict_s", round(panic.seconds_to_verdict, 2), "s", goal="at most 3")
    assert panic.diagnosis.condition is Condition.PANICKED, str(panic)
    assert [outcome.diagnosis.condition for outcome in outcomes[:-1]] == [Condition.OOPSED] * (len(outcomes) - 1)


@pytest.mark.crash_triggers
def test_crash_triggers_that_take_their_time(fresh: Fresh, figure: Callable[..., Figure]) -> None:
    """Slow triggers and faults are reported with their kind and place: hung tasks, lockups, out of memory, leaks.

    A guest that a trigger kills is replaced.
    """
    outcomes: list[TriggerResult] = []
    left = list(SLOW)
    while left:
        with fresh(may_die=True) as guest:
            criminal = CrashModule(guest)
            left = criminal.detectable_triggers(left)
            alive = True
            while left and alive:
                outcomes.append(criminal.fire(left.pop(0)))
                alive = not outcomes[-1].is_guest_lost_or_unusable
    keep(figure, outcomes)


@pytest.mark.crash_triggers
def test_hang(fresh: Fresh, figure: Callable[..., Figure]) -> None:
    """A hang of the only CPU with interrupts off is reported within five heartbeats, with its address."""
    with fresh(may_die=True, cpus=1) as guest:
        hang = CrashModule(guest).fire(HANG)
    assert hang.diagnosis.condition is Condition.HARD_HANG, str(hang)
    assert "pinpoint_spin_deaf" in hang.diagnosis.evidence, str(hang)
    silence = guest.heartbeat.silence if guest.heartbeat else None
    assert silence is not None
    figure("hang.to_verdict_heartbeats", round(silence.missed_beats, 1), "heartbeats", goal="at most 5")
    assert silence.missed_beats <= 5


@pytest.mark.crash_triggers
def test_reset(fresh: Fresh) -> None:
    """A kernel that resets the machine without printing anything is distinguished from one that hangs."""
    with fresh(may_die=True) as guest:
        crash = CrashModule(guest)
        if not crash.detectable_triggers([RESET]):
            pytest.skip(f"{guest.name}: the kernel cannot reset its machine")
        reset = crash.fire(RESET)
    assert (reset.diagnosis.condition, list(reset.complaints)) == (Condition.PANICKED, []), str(reset)


def keep(figure: Callable[..., Figure], outcomes: Sequence[TriggerResult]) -> None:
    """Record the figures of the complaint reader; raise if it missed or invented a complaint."""
    missed = [str(outcome) for outcome in outcomes if not outcome.is_read_correctly]
    alarms = [f"{outcome.trigger.name}: {alarm}" for outcome in outcomes for alarm in outcome.false_alarms]
    figure("oops.fixtures", len(outcomes), "triggers")
    figure("oops.missed", len(missed), "triggers", goal="0")
    figure("oops.false_alarms", len(alarms), "complaints", goal="0")
    assert (missed, alarms) == ([], [])
