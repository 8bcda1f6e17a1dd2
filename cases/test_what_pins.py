"""On this kernel exactly the expected things prevent the removal of a module; others only seem to.

The systemtap runtime of 2006 relied on an open `/sys/module/M/sections/` file, which no longer pins since 2.6.23. For
each thing that may pin a module: it is held, removal is tried, it is used once more and released, and removal is tried
again.
"""

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.pinning.holds.module_removal_while_held import measure_pins
from harness.pinning.mutants import mutant_or_honest
from harness.report.metrics_with_goals import Figure


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("lets-go", deep=("holds-more",))
def test_what_pins(guest: Guest, mutant: str, figure: Callable[..., Figure]) -> None:
    """Device and debugfs files, dependents and sockets pin a module; sysfs files and kprobes do not.

    Those that do not pin report the removal.
    """
    traits = guest.traits
    for row in measure_pins(guest, mutant_or_honest(mutant)):
        figure(f"pins.{row.pin.name}", int(row.pinned), "pins", goal=str(int(row.pin.pins_module(traits))))
        row.prove(traits)
