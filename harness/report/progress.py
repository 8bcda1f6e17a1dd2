"""What every row is doing, gathered from the bus: what both forms of the board show."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.events import Bus, Event, Phase
from harness.report.record import Cell
from harness.verdict.verdict import Verdict


@dataclass(frozen=True)
class Activity:
    """The latest news of one step of one VM; `heard` is when it came, on the monotonic clock."""

    event: Event
    heard: float

    @property
    def active(self) -> bool:
        """Is the step still under way?"""
        return self.event.phase in (Phase.STARTED, Phase.PROGRESS)

    def seconds(self, now: float) -> float:
        """How long the step took, or has taken by now."""
        return self.event.seconds + (now - self.heard if self.active else 0.0)


class Progress:
    """Hears the bus from any thread and answers what each VM is at."""

    def __init__(self, bus: Bus) -> None:
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._steps: dict[tuple[str, str], Activity] = {}
        self._news: dict[tuple[str, str], Activity] = {}
        self._verdicts: Counter[Verdict] = Counter()
        self._by_vm: dict[str, Counter[Verdict]] = {}
        bus.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        if event.phase is Phase.SPENT:
            return
        key = (event.vm, event.step)
        with self._lock:
            activity = Activity(event, time.monotonic())
            # Moved to the end: what was told last is what the row is at.
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
        """The latest of each step that said anything since the last call, in the order it was said."""
        with self._lock:
            news, self._news = list(self._news.values()), {}
        return news

    def rows(self) -> dict[str, Activity]:
        """What each VM is at: the step it told of last, one under way before one that has ended."""
        with self._lock:
            activities = list(self._steps.values())
        latest: dict[str, Activity] = {}
        for activity in activities:
            known = latest.get(activity.event.vm)
            if known is None or activity.active or not known.active:
                latest[activity.event.vm] = activity
        return {vm: latest[vm] for vm in sorted(latest)}

    def totals(self, vm: str = "") -> Counter[Verdict]:
        """How many cells ended how so far, on one VM or on all."""
        with self._lock:
            return Counter(self._by_vm.get(vm, Counter()) if vm else self._verdicts)


def clock(seconds: float) -> str:
    """A duration for people: `4.2s`, `3m07s`, `1h02m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"
