"""Relocation by hand in user space misses where symbol + offset lands; every function of each file is counted.

"By hand" means the running address of one symbol of the file + the function's distance from that symbol in the build
that the probe was made for. A runtime with a symbol table of its own computes addresses this way.
"""

from collections.abc import Callable

import pytest

from harness.images.user_targets import FIRST_LIBRARY, PLAIN, RUNNER, SECOND_LIBRARY
from harness.landing.landing_judgment import Missed
from harness.report.metrics_with_goals import Figure
from harness.userspace.anchor_distance_trial import UserTrial
from harness.userspace.uprobes_fixture import Uprobes

FILES = (FIRST_LIBRARY, SECOND_LIBRARY, RUNNER)


def trials(uprobes: Uprobes, variant: str, figure: Callable[..., Figure]) -> list[UserTrial]:
    """Run one trial for each file of a variant, all in one process, and record its figures."""
    with uprobes.runner_of_build(variant) as process:
        found = [UserTrial.of_file(uprobes, process, name, variant) for name in FILES]
        for trial in found:
            trial.prove_sample_in_guest(uprobes, process)
    scope = f"user.{variant}"
    figure(f"byhand.{scope}.symbols", sum(len(trial.functions) for trial in found), "functions")
    figure(f"byhand.{scope}.missed", sum(len(trial.functions_missed_by_hand) for trial in found), "functions")
    figure(
        f"bysymbol.{scope}.missed", sum(len(trial.functions_missed_by_symbol) for trial in found), "functions", goal="0"
    )
    figure(
        f"byaddress.{scope}.missed", sum(len(trial.functions_misplaced_by_link_address) for trial in found), "functions"
    )
    if any(trial.functions_missed_by_symbol for trial in found):
        raise Missed(f"missed by symbol: {[trial.functions_missed_by_symbol for trial in found]}")
    return found


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-wrong-anchor", deep=("user-one-instruction-off",))
def test_made_for_this_user_build(uprobes: Uprobes, figure: Callable[..., Figure]) -> None:
    """Control: in the build that the distances were taken from, every function is found."""
    for trial in trials(uprobes, PLAIN, figure):
        trial.prove_missed_count_between(least=0, most=0)


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-same-build", deep=("user-one-instruction-off",))
@pytest.mark.parametrize(
    "variant",
    ["reordered", *(pytest.param(each, marks=pytest.mark.deep) for each in ("sections", "rebuilt"))],
)
def test_made_for_another_user_build(uprobes: Uprobes, variant: str, figure: Callable[..., Figure]) -> None:
    """In a build of the same source with another layout, most functions are missed; by symbol none are."""
    found = trials(uprobes, variant, figure)
    for trial in found:
        trial.prove_missed_count_between(least=len(trial.functions) // 2 + 1, most=len(trial.functions))
    if variant == "reordered":
        figure("byhand.user.missed", sum(len(trial.functions_missed_by_hand) for trial in found), "functions")


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-link-address", deep=("user-wrong-anchor",))
def test_linked_at_another_base(uprobes: Uprobes, figure: Callable[..., Figure]) -> None:
    """In a file linked at another base the distances hold; an address used as a file offset misses every function."""
    for trial in trials(uprobes, "based", figure):
        trial.prove_missed_count_between(least=0, most=0)
        if len(trial.functions_misplaced_by_link_address) != len(trial.functions):
            raise Missed(
                f"{trial.file.name}: by address {len(trial.functions_misplaced_by_link_address)} are missed, not all"
            )
