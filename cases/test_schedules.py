"""Loading a probe module while its target comes and goes, in every order: each step ends as the model predicts.

The steps and the model: docs/pinning.md, harness/pinning/protocol/model.py. A schedule is printed as one line and
played again from it: `./pinpoint run --vm NAME -k test_orders --schedule 'LINE'`.
"""

from collections.abc import Callable

import pytest

from harness.pinning.protocol.schedule_fixture import Schedules
from harness.report.measurements import Figure

pytestmark = pytest.mark.requires("kprobes")


@pytest.mark.mutants("closes-early", "skips-re-read", "trusts-address")
def test_orders(schedules: Schedules, figure: Callable[..., Figure]) -> None:
    """A few orders in which every situation of one intervention occurs, address reuse among them; or all of two."""
    every = schedules.enumerated(2)
    figure("schedules.enumerated", len(every.schedules), "schedules")
    figure("schedules.left_out", len(every.undefined), "schedules")
    played = schedules.run(schedules.chosen())
    figure("schedules.run", len(played.plays), "schedules")
    figure("schedules.reused", played.reused, "schedules")
    figure("schedules.disagreed", len(played.disagreed), "schedules", goal="0")
    figure("schedules.seconds_each", round(played.seconds_each, 2), "s", goal="at most 2")
    played.prove()
    assert played.reused or schedules.lines, "no life of the target ever stood where the one before had"


@pytest.mark.deep
@pytest.mark.mutants("other-rule")
def test_longer_orders(schedules: Schedules, figure: Callable[..., Figure]) -> None:
    """Orders of many more steps, drawn from the model by hypothesis; one that fails is shrunk to the shortest."""
    played = schedules.explored()
    figure("schedules.long_run", len(played.plays), "schedules")
    figure("schedules.long_steps", sum(len(play.turns) for play in played.plays), "steps")
