"""The state of every row, gathered from the bus, for both forms of the board."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.events import Bus, Event, Phase
from harness.report.record import Cell
from harness.verdict.cell_verdict import Verdict


@dataclass(frozen=True)
class Activity:
    """The latest event of one step of one VM; `received` is its time of arrival on the monotonic clock."""

    event: Event
    received: float

    @property
    def active(self) -> bool:
        """True while the step is under way."""
        return self.event.phase in (Phase.STARTED, Phase.PROGRESS)

    def seconds(self, now: float) -> float:
        """Return how long the step took, or has taken so far."""
        return self.event.seconds + (now - self.received if self.active else 0.0)


class Progress:
    """Receives the events of a bus from any thread and reports the current step of each VM."""

    def __init__(self, bus: Bus) -> None:
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._steps: dict[tuple[str, str], Activity] = {}
        self._news: dict[tuple[str, str], Activity] = {}
        self._verdicts: Counter[Verdict] = Counter()
        self._by_vm: dict[str, Counter[Verdict]] = {}
        bus.subscribe(self._receive)

    def _receive(self, event: Event) -> None:
        if event.phase is Phase.SPENT:
            return
        key = (event.vm, event.step)
        with self._lock:
            activity = Activity(event, time.monotonic())
            # Moved to the end: the last event is the row's current step.
            self._steps.pop(key, None)
            self._steps[key] = activity
            self._news.pop(key, None)
            self._news[key] = activity

    def count(self, cell: Cell) -> None:
        """Count a finished cell."""
        with self._lock:
            self._verdicts[cell.verdict] += 1
            self._by_vm.setdefault(cell.vm, Counter())[cell.verdict] += 1

    def news(self) -> Sequence[Activity]:
        """Return the latest event of each step that had any since the last call, in order."""
        with self._lock:
            news, self._news = list(self._news.values()), {}
        return news

    def rows(self) -> dict[str, Activity]:
        """Return the current step of each VM: its last event, steps under way before steps that have ended."""
        with self._lock:
            activities = list(self._steps.values())
        latest: dict[str, Activity] = {}
        for activity in activities:
            known = latest.get(activity.event.vm)
            if known is None or activity.active or not known.active:
                latest[activity.event.vm] = activity
        return {vm: latest[vm] for vm in sorted(latest)}

    def totals(self, vm: str = "") -> Counter[Verdict]:
        """Return how many cells ended in each verdict so far, on one VM or on all."""
        with self._lock:
            return Counter(self._by_vm.get(vm, Counter()) if vm else self._verdicts)


def format_duration(seconds: float) -> str:
    """Format a duration for people: `4.2s`, `3m07s`, `1h02m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"
