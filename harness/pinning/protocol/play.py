"""Plays a schedule: takes each step in a guest and compares its outcome with the model's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from harness.core.errors import UsageError
from harness.landing.landing_judgment import Missed
from harness.pinning.protocol.model import KernelRules, NotNowError, UndefinedError, World, initial_world
from harness.pinning.protocol.steps import LOADS, ScheduleStep, format_schedule


class Stage(Protocol):
    """A guest in which schedules are played, with the target loaded and two loaders at their first gates."""

    def take(self, step: ScheduleStep, now: World) -> str:
        """Take a step. Returns its outcome in the model's words; `now` is the model's world before the step."""

    def place(self) -> str:
        """The place of the target; it is the same for two instances with the same addresses."""

    def state(self) -> str:
        """The state of target and probe module in the kernel, in the words of World.expected_kernel_state."""


class Disagreed(Missed):
    """The model is wrong about a schedule; `schedule` is the line that replays it."""

    def __init__(self, schedule: str, problem: str) -> None:
        self.schedule = schedule
        super().__init__(f"--schedule '{schedule}': {problem}")


@dataclass(frozen=True)
class Turn:
    """One step, with the outcome that the model predicts and the outcome that was seen."""

    step: ScheduleStep
    predicted: str
    seen: str

    @property
    def agrees(self) -> bool:
        """True if the model was right."""
        return self.predicted == self.seen

    def __str__(self) -> str:
        return f"{self.step}: {self.seen}" + ("" if self.agrees else f", the model predicts {self.predicted}")


@dataclass(frozen=True)
class Play:
    """A schedule as it was played, up to the first disagreement with the model.

    `reused` is true if an instance of the target had the same place as the one before. `seconds` is the time from the
    first step to the last.
    """

    turns: tuple[Turn, ...]
    predicted_state: str
    state: str
    reused: bool
    seconds: float

    @property
    def agrees(self) -> bool:
        """True if all outcomes and the final state are as the model predicts."""
        return all(turn.agrees for turn in self.turns) and self.predicted_state == self.state

    @property
    def line(self) -> str:
        """The schedule up to the first disagreement, as the line that replays it."""
        return format_schedule(turn.step for turn in self.turns)

    def prove(self) -> None:
        """Raise Missed, with the schedule in its first line, if the model was wrong."""
        if self.agrees:
            return
        turns = "\n".join(str(turn) for turn in self.turns)
        wrong = next((str(turn) for turn in self.turns if not turn.agrees), "")
        wrong = wrong or f"at the end {self.state}; the model predicts {self.predicted_state}"
        raise Disagreed(self.line, f"{wrong}\n\n{turns}")


class Player:
    """Plays one schedule step by step."""

    def __init__(self, stage: Stage, rule: KernelRules) -> None:
        self.stage = stage
        self._last_place = stage.place()
        self.world = initial_world(rule, self._last_place)
        self._turns: list[Turn] = []
        self._reused = self.moved = False
        self._began = time.monotonic()

    def take(self, step: ScheduleStep) -> Turn:
        """Take one step and compare it with the model. Raises UsageError for a step that cannot be taken now."""
        self._demand(step)
        before = self.world
        seen = self.stage.take(step, before)
        loads = step.verb in LOADS and before.target is None
        place = self.stage.place() if loads and seen == "ok" else None
        if place is not None:
            self._reused |= place == self._last_place
            self.moved |= place != self._last_place
            self._last_place = place
        self.world, predicted = before.world_after(step, place)
        self._turns.append(Turn(step, predicted, seen))
        return self._turns[-1]

    def _demand(self, step: ScheduleStep) -> None:
        if why := self.refusal_reason(step):
            raise UsageError(why, where=f"schedule after {format_schedule(turn.step for turn in self._turns)!r}")

    def refusal_reason(self, step: ScheduleStep) -> str:
        """The reason why this step cannot be taken now; empty if it can."""
        try:
            self.world.world_after(step)
        except (NotNowError, UndefinedError) as impossible:
            return str(impossible)
        return ""

    def played(self) -> Play:
        """The result of the schedule so far."""
        seconds = time.monotonic() - self._began
        return Play(tuple(self._turns), self.world.expected_kernel_state, self.stage.state(), self._reused, seconds)


def play(stage: Stage, rule: KernelRules, schedule: Iterable[ScheduleStep]) -> Play:
    """Play a schedule to its end, or to the first step for which the model is wrong.

    No rule predicts whether the target moves to another place. If it does, a loader is refused earlier than the
    schedule assumes, and the steps that it can no longer take are left out.
    """
    player = Player(stage, rule)
    for step in schedule:
        if player.moved and player.refusal_reason(step):
            continue
        if not player.take(step).agrees:
            break
    return player.played()
