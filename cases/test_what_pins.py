"""What keeps a module from being removed on this kernel, and what only seems to.

The systemtap runtime of 2006 relied on an open `/sys/module/M/sections/` file; 2.6.23 took that away. Each thing that
may hold a module is held, removal is keep_trial, what is held is used once more, let go, and removal is tried again.
"""

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.pinning.holds.pins import measured
from harness.pinning.mutants import named
from harness.report.measurements import Figure


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("lets-go", "holds-more")
def test_what_pins(guest: Guest, mutant: str, figure: Callable[..., Figure]) -> None:
    """Device and debugfs files, dependents and sockets pin; sysfs files and kprobes do not, and report the removal."""
    traits = guest.traits
    for row in measured(guest, named(mutant)):
        figure(f"pins.{row.pin.name}", int(row.pinned), "pins", goal=str(int(row.pin.rule(traits))))
        row.prove(traits)
