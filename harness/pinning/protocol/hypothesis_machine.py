"""Schedules too long to enumerate: hypothesis draws them from the model and shrinks them to the shortest failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as draw
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from harness.core.errors import PinpointError
from harness.pinning.protocol.enumerate import possible_steps
from harness.pinning.protocol.model import KernelRules, initial_world
from harness.pinning.protocol.play import PlayedSchedule, SchedulePlayer, Stage
from harness.pinning.protocol.steps import ScheduleStep, Verb

StageFactory = Callable[[], AbstractContextManager[Stage]]
# The seed of the schedules that are always drawn, a few of which distinguish all rules of kernels. Without it,
# hypothesis computes a seed from the source text of the state machine, and every rename there changes the schedules.
_SEED = 33


def explore_schedules(
    stages: StageFactory, pins: KernelRules, *, schedules: int, steps: int, shrinks: bool, varied: bool
) -> list[PlayedSchedule]:
    """Play `schedules` schedules of at most `steps` steps; each step is drawn from those with an outcome in the model.

    `shrinks` searches for the shortest schedule that fails, `varied` draws different schedules in each run. Returns
    what was played. Raises Missed with the line of a schedule for which the model is wrong. Errors of the guest or the
    harness are raised unchanged and do not count as failed schedules.
    """
    played: list[PlayedSchedule] = []
    broken: list[PinpointError] = []

    @contextmanager
    def unless_broken() -> Iterator[None]:
        """Record an error of the guest or the harness; nothing is played after it."""
        try:
            yield
        except PinpointError as error:
            broken.append(error)

    class Orders(RuleBasedStateMachine):
        """One schedule, on its own stage."""

        def __init__(self) -> None:
            super().__init__()
            self._open = ExitStack()
            # The draws must not depend on where the kernel puts the target, because hypothesis replays them.
            self._drawn = initial_world(pins)
            # Each step has one index in every world, so hypothesis can leave out a step and keep the others.
            self._steps = [ScheduleStep(verb, number) for number in self._drawn.loaders for verb in Verb]
            self._player: SchedulePlayer | None = None
            with unless_broken():
                self._player = None if broken else SchedulePlayer(self._open.enter_context(stages()), pins)

        @precondition(lambda self: bool(possible_steps(self._drawn)))
        @rule(data=draw.data())
        def take(self, data: draw.DataObject) -> None:
            """Draw a step that can be taken now, and take it."""
            possible = possible_steps(self._drawn)
            step = data.draw(draw.sampled_from(self._steps).filter(possible.__contains__))
            self._drawn = self._drawn.world_and_outcome_after(step)[0]
            with unless_broken():
                self._take(step)

        def _take(self, step: ScheduleStep) -> None:
            if broken or self._player is None or (self._player.moved and self._player.refusal_reason(step)):
                return
            if not self._player.take_and_record_step(step).agrees:
                self._player.result_so_far().prove()

        def teardown(self) -> None:
            """Compare the kernel's state at the end with the model."""
            with unless_broken(), self._open:
                if self._player is not None and not broken:
                    played.append(self._player.result_so_far())
                    played[-1].prove()

    if not varied:
        seed(_SEED)(Orders)
    phases = (Phase.generate, Phase.shrink) if shrinks else (Phase.generate,)
    run_state_machine_as_test(
        Orders,
        settings=settings(
            max_examples=schedules,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not varied,
            phases=phases,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if broken:
        raise broken[0]
    return played
