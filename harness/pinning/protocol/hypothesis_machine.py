"""Longer schedules than can be enumerated, drawn by hypothesis from the model and shrunk to the shortest that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as draw
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from harness.core.errors import PinpointError
from harness.pinning.protocol.enumerate import possible
from harness.pinning.protocol.model import Rule, beginning
from harness.pinning.protocol.play import Play, Player, Stage
from harness.pinning.protocol.steps import ScheduleStep

Stages = Callable[[], AbstractContextManager[Stage]]


def explore(stages: Stages, pins: Rule, *, schedules: int, steps: int, shrinks: bool, varied: bool) -> list[Play]:
    """Play so many schedules of at most so many steps, each step drawn from those that the model has an outcome for.

    `shrinks` looks for the shortest schedule that fails, `varied` draws others each time. Gives what was played. Raises
    Missed with the line of the schedule of which the model was wrong; what stops the guest or the harness is raised as
    it is, and not taken for a schedule that fails.
    """
    played: list[Play] = []
    broken: list[PinpointError] = []

    @contextmanager
    def unless_broken() -> Iterator[None]:
        """Nothing is played any more once something broke."""
        try:
            yield
        except PinpointError as error:
            broken.append(error)

    class Orders(RuleBasedStateMachine):
        """One schedule on a stage of its own."""

        def __init__(self) -> None:
            super().__init__()
            self._open = ExitStack()
            # What is drawn must not depend on where the kernel puts the target: hypothesis replays what it drew.
            self._drawn = beginning(pins)
            self._player: Player | None = None
            with unless_broken():
                self._player = None if broken else Player(self._open.enter_context(stages()), pins)

        @precondition(lambda self: bool(possible(self._drawn)))
        @rule(data=draw.data())
        def take(self, data: draw.DataObject) -> None:
            """Any step that can be taken now."""
            step = data.draw(draw.sampled_from(possible(self._drawn)))
            self._drawn = self._drawn.after(step)[0]
            with unless_broken():
                self._take(step)

        def _take(self, step: ScheduleStep) -> None:
            if broken or self._player is None or (self._player.moved and self._player.why_not(step)):
                return
            if not self._player.take(step).agrees:
                self._player.done().prove()

        def teardown(self) -> None:
            """What the kernel shows at the end is held against the model too."""
            with unless_broken(), self._open:
                if self._player is not None and not broken:
                    played.append(self._player.done())
                    played[-1].prove()

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
