"""One target loaded, removed, read and probed all at once, on two virtual CPUs, with nothing to keep any of it in step.

Only outcomes that the protocol allows, references given back in the end, no complaint of the kernel, no memory lost
(where the kernel has kmemleak). `--stress N` makes it as long as wanted: so many loads and removals that succeed.
"""

from collections.abc import Callable

import pytest

from harness.pinning.stress import StressRuns
from harness.report.measurements import Figure


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("strange-image", "holds-more")
def test_stress(stress_runs: StressRuns, figure: Callable[..., Figure]) -> None:
    """Whatever comes first, each of the four gets an errno of its set, and everything can be removed afterwards."""
    stressed = stress_runs.race()
    figure("stress.operations", stressed.operations, "operations")
    figure("stress.attempts", stressed.attempts, "loads and removals tried")
    figure("stress.changes", stressed.changes, "loads and removals")
    figure("stress.minutes", round(stressed.seconds / 60, 2), "min")
    figure("stress.complaints", len(stressed.complaints), "complaints", goal="0")
    stressed.prove()
