"""Plays a schedule: takes each step in a guest and compares its outcome with the model's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from harness.core.errors import UsageError
from harness.landing.landing_judgment import Missed
from harness.pinning.protocol.model import (
    KernelRules,
    StepNotPossibleError,
    UndefinedBehaviorError,
    World,
    initial_world,
)
from harness.pinning.protocol.steps import LOADS, ScheduleStep, format_schedule


class Stage(Protocol):
    """A guest in which schedules are played, with the target loaded and two loaders at their first gates."""

    def take_step(self, step: ScheduleStep, now: World) -> str:
        """Take a step. Returns its outcome in the model's words; `now` is the model's world before the step."""

    def last_target_place(self) -> str:
        """The place of the target; it is the same for two instances with the same addresses."""

    def kernel_state(self) -> str:
        """The state of target and probe module in the kernel, in the words of World.expected_kernel_state."""


class ModelDisagreesError(Missed):
    """The model is wrong about a schedule; `schedule` is the line that replays it."""

    def __init__(self, schedule: str, problem: str) -> None:
        self.schedule = schedule
        super().__init__(f"--schedule '{schedule}': {problem}")


@dataclass(frozen=True)
class PlayedStep:
    """One step, with the outcome that the model predicts and the outcome that was seen."""

    step: ScheduleStep
    predicted_outcome: str
    seen_outcome: str

    @property
    def agrees(self) -> bool:
        """True if the model was right."""
        return self.predicted_outcome == self.seen_outcome

    def __str__(self) -> str:
        return f"{self.step}: {self.seen_outcome}" + (
            "" if self.agrees else f", the model predicts {self.predicted_outcome}"
        )


@dataclass(frozen=True)
class PlayedSchedule:
    """A schedule as it was played, up to the first disagreement with the model.

    `place_reused` is true if an instance of the target had the same place as the one before. `seconds` is the time from
    the first step to the last.
    """

    played_steps: tuple[PlayedStep, ...]
    predicted_state: str
    seen_state: str
    place_reused: bool
    seconds: float

    @property
    def agrees(self) -> bool:
        """True if all outcomes and the final state are as the model predicts."""
        return all(turn.agrees for turn in self.played_steps) and self.predicted_state == self.seen_state

    @property
    def schedule_line(self) -> str:
        """The schedule up to the first disagreement, as the line that replays it."""
        return format_schedule(turn.step for turn in self.played_steps)

    def prove(self) -> None:
        """Raise Missed, with the schedule in its first line, if the model was wrong."""
        if self.agrees:
            return
        turns = "\n".join(str(turn) for turn in self.played_steps)
        wrong = next((str(turn) for turn in self.played_steps if not turn.agrees), "")
        wrong = wrong or f"at the end {self.seen_state}; the model predicts {self.predicted_state}"
        raise ModelDisagreesError(self.schedule_line, f"{wrong}\n\n{turns}")


class SchedulePlayer:
    """Plays one schedule step by step."""

    def __init__(self, stage: Stage, rule: KernelRules) -> None:
        self.stage = stage
        self._last_place = stage.last_target_place()
        self.world = initial_world(rule, self._last_place)
        self._turns: list[PlayedStep] = []
        self._reused = self.moved = False
        self._began = time.monotonic()

    def take_and_record_step(self, step: ScheduleStep) -> PlayedStep:
        """Take one step and compare it with the model. Raises UsageError for a step that cannot be taken now."""
        self._demand(step)
        before = self.world
        seen = self.stage.take_step(step, before)
        loads = step.verb in LOADS and before.target is None
        place = self.stage.last_target_place() if loads and seen == "ok" else None
        if place is not None:
            self._reused |= place == self._last_place
            self.moved |= place != self._last_place
            self._last_place = place
        self.world, predicted = before.world_and_outcome_after(step, place)
        self._turns.append(PlayedStep(step, predicted, seen))
        return self._turns[-1]

    def _demand(self, step: ScheduleStep) -> None:
        if why := self.refusal_reason(step):
            raise UsageError(why, where=f"schedule after {format_schedule(turn.step for turn in self._turns)!r}")

    def refusal_reason(self, step: ScheduleStep) -> str:
        """The reason why this step cannot be taken now; empty if it can."""
        try:
            self.world.world_and_outcome_after(step)
        except (StepNotPossibleError, UndefinedBehaviorError) as impossible:
            return str(impossible)
        return ""

    def result_so_far(self) -> PlayedSchedule:
        """The result of the schedule so far."""
        seconds = time.monotonic() - self._began
        return PlayedSchedule(
            tuple(self._turns), self.world.expected_kernel_state, self.stage.kernel_state(), self._reused, seconds
        )


def play_schedule(stage: Stage, rule: KernelRules, schedule: Iterable[ScheduleStep]) -> PlayedSchedule:
    """Play a schedule to its end, or to the first step for which the model is wrong.

    No rule predicts whether the target moves to another place. If it does, a loader is refused earlier than the
    schedule assumes, and the steps that it can no longer take are left out.
    """
    player = SchedulePlayer(stage, rule)
    for step in schedule:
        if player.moved and player.refusal_reason(step):
            continue
        if not player.take_and_record_step(step).agrees:
            break
    return player.result_so_far()
