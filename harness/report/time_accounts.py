"""Where a run's time went: what its rows spent on each thing, summed up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from harness.core.events import Bus, Event, Phase
from harness.guest.start import GUEST_CPU
from harness.report.measurements import Figures

Spent = Mapping[str, Mapping[str, float]]

# The parts of a cell, on the wall's clock, in their order; `guest` is the wait for one that is not ready.
GUEST, FIXTURES, BODY, CHECK_UP, ENDING = "guest", "fixtures", "body", "check-up", "ending"
PARTS = (GUEST, FIXTURES, BODY, CHECK_UP, ENDING)
# What goes on beside the cells too: the images' check, guests that begin.
IMAGE, THAW, BOOT = "image", "thaw", "boot"
BESIDE = (IMAGE, THAW, BOOT)


class Ledger:
    """Hears the accounts of a bus, and takes those of other processes."""

    def __init__(self, bus: Bus) -> None:
        self._lock = threading.Lock()
        self._spent: dict[str, Counter[str]] = {}
        bus.subscribe(self._hear)

    def take(self, spent: Spent) -> None:
        """Add what another ledger holds."""
        with self._lock:
            for vm, accounts in spent.items():
                self._spent.setdefault(vm, Counter()).update(accounts)

    @property
    def spent(self) -> dict[str, dict[str, float]]:
        """Seconds by VM and what they went into."""
        with self._lock:
            return {vm: dict(accounts) for vm, accounts in self._spent.items()}

    def _hear(self, event: Event) -> None:
        if event.phase is Phase.SPENT:
            self.take({event.vm: {event.step: event.seconds}})


def keep(figures: Figures, spent: Spent) -> None:
    """Keep what each VM's guests used, its cells' parts, and what went on beside them, each summed over all processes.

    `phase.fixtures_s` and `phase.ending_s` are without the wait for a guest and the check-up, which pytest counts among
    them.
    """
    for vm, accounts in sorted(spent.items()):
        inner = {FIXTURES: GUEST, ENDING: CHECK_UP}
        for part in PARTS:
            seconds = accounts.get(part, 0.0) - accounts.get(inner.get(part, ""), 0.0)
            figures.add(f"phase.{part.replace('-', '_')}_s", round(max(0.0, seconds), 3), "s", vm=vm)
        for part in BESIDE:
            figures.add(f"phase.{part}_s", round(accounts.get(part, 0.0), 3), "s", vm=vm)
        figures.add("run.guest_cpu_s", round(accounts.get(GUEST_CPU, 0.0), 2), "s", vm=vm)
