"""A target that is loaded, removed, read and probed at once, unsynchronized on two CPUs, has only allowed outcomes.

At the end all references are released, the kernel has not complained, and no memory is lost (if the kernel has
kmemleak). `--stress N` sets the length: the number of loads and removals that succeed.
"""

from collections.abc import Callable

import pytest

from harness.pinning.stress import StressRuns
from harness.report.metrics_with_goals import Figure


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("strange-image", "holds-more", "skips-re-read")
@pytest.mark.own_loader("it is one of the four programs that race")
def test_stress(stress_runs: StressRuns, figure: Callable[..., Figure]) -> None:
    """In any order, each of the four programs gets an errno of its set, and everything can be removed afterwards."""
    stressed = stress_runs.race()
    figure("stress.operations", stressed.operation_count, "operations")
    figure("stress.attempts", stressed.attempted_loads_and_removals, "loads and removals tried")
    figure("stress.changes", stressed.successful_loads_and_removals, "loads and removals")
    figure("stress.probes", stressed.outcome_counts["probe", "0"], "probes loaded and found valid by the second read")
    figure("stress.reused", stressed.refused_by_second_read, "probes refused by the second read alone")
    figure("stress.minutes", round(stressed.seconds / 60, 2), "min")
    figure("stress.complaints", len(stressed.problems), "complaints", goal="0")
    stressed.prove_no_problems()
