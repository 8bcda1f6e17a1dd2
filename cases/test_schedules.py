"""While a target is loaded and removed in any order, each step of loading a probe module ends as the model predicts.

docs/pinning.md and harness/pinning/protocol/model.py describe the steps and the model. A schedule is printed as one
line, which replays it: `./pinpoint run --vm NAME -k test_orders --schedule 'LINE'`.
"""

from collections.abc import Callable

import pytest

from harness.pinning.protocol.schedule_fixture import Schedules
from harness.report.metrics_with_goals import Figure

pytestmark = pytest.mark.requires("kprobes")


@pytest.mark.mutants("skips-re-read", deep=("closes-early", "no-build-id"))
@pytest.mark.own_loader("it is stopped before each of its steps")
def test_orders(schedules: Schedules, figure: Callable[..., Figure]) -> None:
    """Each step ends as predicted in schedules that cover every situation with one intervention.

    These include address reuse. --schedules=all plays all schedules with two interventions.
    """
    every = schedules.enumerate_schedules(2)
    figure("schedules.enumerated", len(every.schedules), "schedules")
    figure("schedules.left_out", len(every.undefined_schedules), "schedules")
    played = schedules.play_each_schedule(schedules.schedules_to_play())
    figure("schedules.run", len(played.plays), "schedules")
    figure("schedules.reused", played.place_reused_count, "schedules")
    figure("schedules.disagreed", len(played.disagreed), "schedules", goal="0")
    figure("schedules.seconds_each", round(played.seconds_each, 2), "s", goal="at most 2")
    played.prove()
    assert played.place_reused_count or schedules.given_lines, (
        "the target was never loaded at the address of its previous instance"
    )


@pytest.mark.deep
@pytest.mark.mutants("other-rule")
@pytest.mark.own_loader("it is stopped before each of its steps")
def test_longer_orders(schedules: Schedules, figure: Callable[..., Figure]) -> None:
    """Each step ends as predicted in long schedules that hypothesis draws from the model.

    A schedule that fails is shrunk to the shortest that fails.
    """
    played = schedules.explore()
    figure("schedules.long_run", len(played.plays), "schedules")
    figure("schedules.long_steps", sum(len(play.played_steps) for play in played.plays), "steps")
