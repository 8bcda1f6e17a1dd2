"""A race without gates has only allowed outcomes, and any other outcome is reported."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.landing.landing_judgment import Missed
from harness.pinning.stress import StressResult

FAIR = {
    ("load", "0"): 30,
    ("load", "EEXIST"): 9,
    ("remove", "0"): 30,
    ("remove", "EAGAIN"): 4,
    ("read", "0"): 100,
    ("read", "ENODEV"): 1,
    ("probe", "load:ESTALE"): 4,
    ("probe", "0"): 1,
}


def race(changed: dict[tuple[str, str], int] | None = None, *, left: str = "", leaks: str = "") -> StressResult:
    return StressResult(Counter({**FAIR, **(changed or {})}), 1.0, left, leaks)


def test_a_fair_race() -> None:
    race().prove_no_problems()
    assert (race().operation_count, race().attempted_loads_and_removals, race().successful_loads_and_removals) == (
        179,
        73,
        60,
    )


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        ({("load", "ENOEXEC"): 1}, "load: ENOEXEC, 1 times"),
        ({("remove", "EINVAL"): 2}, "remove: EINVAL, 2 times"),
        ({("probe", "load:EINVAL"): 1}, "probe: load:EINVAL, 1 times"),
        ({("remove", "0"): 0}, "no remove ever succeeded"),
        ({("probe", "0"): 0}, "no probe ever succeeded"),
        ({("probe", "0:unread"): 1}, "probe: 0:unread, 1 times"),
    ],
)
def test_an_outcome_that_no_rule_allows(changed: dict[tuple[str, str], int], reported: str) -> None:
    with pytest.raises(Missed, match=reported):
        race(changed).prove_no_problems()


@pytest.mark.parametrize("what", [{"left": "pinpoint_target is referenced"}, {"leaks": "unreferenced object"}])
def test_what_is_not_given_back(what: dict[str, str]) -> None:
    with pytest.raises(Missed, match=next(iter(what.values()))):
        race(**what).prove_no_problems()
