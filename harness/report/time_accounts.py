"""Where a run's time went: seconds by VM and activity."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from harness.core.events import Bus, Event, EventKind
from harness.guest.start import GUEST_CPU
from harness.report.metrics_with_goals import Figures

Spent = Mapping[str, Mapping[str, float]]

# The parts of a cell in wall-clock time, in order; `guest` is the wait for a guest that is not ready.
GUEST, FIXTURES, BODY, CHECK_UP, ENDING = "guest", "fixtures", "body", "check-up", "ending"
PARTS = (GUEST, FIXTURES, BODY, CHECK_UP, ENDING)
# Activities that also run in parallel with cells: the check of images, the start of guests.
IMAGE, THAW, BOOT = "image", "thaw", "boot"
IN_PARALLEL = (IMAGE, THAW, BOOT)


class Ledger:
    """Adds up the time accounts of a bus and of other processes."""

    def __init__(self, bus: Bus) -> None:
        self._lock = threading.Lock()
        self._spent: dict[str, Counter[str]] = {}
        bus.add_listener(self._receive)

    def merge_accounts(self, spent: Spent) -> None:
        """Add the accounts of another ledger."""
        with self._lock:
            for vm, accounts in spent.items():
                self._spent.setdefault(vm, Counter()).update(accounts)

    @property
    def seconds_by_vm_and_activity(self) -> dict[str, dict[str, float]]:
        """Seconds by VM and activity."""
        with self._lock:
            return {vm: dict(accounts) for vm, accounts in self._spent.items()}

    def _receive(self, event: Event) -> None:
        if event.kind is EventKind.SPENT:
            self.merge_accounts({event.vm: {event.step: event.seconds}})


def record_figures(figures: Figures, spent: Spent) -> None:
    """Add the figures of each VM: CPU time of its guests, the parts of its cells, and activities in parallel with them.

    Each is summed over all processes. pytest counts the wait for a guest and the check-up as fixtures;
    `phase.fixtures_s` and `phase.ending_s` exclude them.
    """
    for vm, accounts in sorted(spent.items()):
        inner = {FIXTURES: GUEST, ENDING: CHECK_UP}
        for part in PARTS:
            seconds = accounts.get(part, 0.0) - accounts.get(inner.get(part, ""), 0.0)
            figures.add(f"phase.{part.replace('-', '_')}_s", round(max(0.0, seconds), 3), "s", vm=vm)
        for part in IN_PARALLEL:
            figures.add(f"phase.{part}_s", round(accounts.get(part, 0.0), 3), "s", vm=vm)
        figures.add("run.guest_cpu_s", round(accounts.get(GUEST_CPU, 0.0), 2), "s", vm=vm)
