"""The state of every row, gathered from the bus, for both forms of the board."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.events import Bus, Event, EventKind
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict

# Steps that start a guest, and steps inside a cell; all others build.
_STARTS = frozenset({"boot", "thaw"})
_INSIDE = frozenset({"armed", "resolved", "tracefs", "replace", "verify", "traits"})


@dataclass(frozen=True)
class Activity:
    """The latest event of one step of one VM; `received_at` is its time of arrival on the monotonic clock."""

    event: Event
    received_at: float

    @property
    def active(self) -> bool:
        """True while the step is under way."""
        return self.event.kind in (EventKind.STARTED, EventKind.PROGRESS)

    def seconds(self, now: float) -> float:
        """Return how long the step took, or has taken so far."""
        return self.event.seconds + (now - self.received_at if self.active else 0.0)


@dataclass(frozen=True)
class RunProgressAndRate:
    """How far a run is: builds under way, VMs whose cells run, cells that ended, cells asked for, and the rate.

    `cells_per_second` is in cells a second since the first ended, None before there is one; `seconds_left` is the time
    left in seconds at that rate, None when it is unknown.
    """

    active_builds: int
    active_vms: int
    ended_cells: int
    expected_cells: int
    cells_per_second: float | None
    seconds_left: float | None

    def __str__(self) -> str:
        counts = {"build": self.active_builds, "guest": self.active_vms}
        parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
        parts += [f"{self.ended_cells}/{self.expected_cells or '?'} cells"]
        parts += [f"{self.cells_per_second:.1f} cells/s"] if self.cells_per_second else []
        parts += [f"{format_duration(self.seconds_left)} left"] if self.seconds_left else []
        return ", ".join(parts)


class Progress:
    """Receives the events of a bus from any thread and reports the current step of each VM."""

    def __init__(self, bus: Bus) -> None:
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._steps: dict[tuple[str, str], Activity] = {}
        self._news: dict[tuple[str, str], Activity] = {}
        self._verdicts: Counter[Verdict] = Counter()
        self._by_vm: dict[str, Counter[Verdict]] = {}
        self._asked: Counter[str] = Counter()
        self._first_ended: float | None = None
        bus.add_listener(self._receive)

    def _receive(self, event: Event) -> None:
        if event.kind is EventKind.SPENT:
            return
        key = (event.vm, event.step)
        with self._lock:
            activity = Activity(event, time.monotonic())
            # Moved to the end: the last event is the row's current step.
            self._steps.pop(key, None)
            self._steps[key] = activity
            self._news.pop(key, None)
            self._news[key] = activity

    def count_finished_cell(self, cell: Cell) -> None:
        """Count a finished cell."""
        with self._lock:
            if self._first_ended is None:
                self._first_ended = time.monotonic()
            self._verdicts[cell.verdict] += 1
            self._by_vm.setdefault(cell.vm, Counter())[cell.verdict] += 1

    def set_expected_cells(self, asked: Mapping[str, int]) -> None:
        """Set how many cells were asked for, by VM."""
        with self._lock:
            self._asked = Counter(asked)

    def run_progress_and_rate(self, now: float) -> RunProgressAndRate:
        """Return how far the run is."""
        with self._lock:
            active = [activity.event.step for activity in self._steps.values() if activity.active]
            ended, asked = self._verdicts.total(), self._asked.total()
            running = sum(0 < counts.total() < self._asked[vm] for vm, counts in self._by_vm.items())
            elapsed = now - self._first_ended if self._first_ended is not None else 0.0
        starting = sum(step in _STARTS for step in active)
        building = sum(step not in _STARTS and step not in _INSIDE for step in active)
        # The first cell began before the clock did, so it does not count for the rate.
        rate = (ended - 1) / elapsed if ended > 1 and elapsed > 0 else None
        left = (asked - ended) / rate if rate and asked > ended else None
        return RunProgressAndRate(building, running + starting, ended, asked, rate, left)

    def ended_expected_and_failed_cells(self, vm: str) -> tuple[int, int, int]:
        """Return how many cells of a VM ended, how many were asked for, and how many of the ended make the run fail."""
        with self._lock:
            counts = self._by_vm.get(vm, Counter())
            bad = sum(count for verdict, count in counts.items() if not verdict.acceptable)
            return counts.total(), self._asked[vm], bad

    def take_changed_activities(self) -> Sequence[Activity]:
        """Return the latest event of each step that had any since the last call, in order."""
        with self._lock:
            news, self._news = list(self._news.values()), {}
        return news

    def current_activity_by_vm(self) -> dict[str, Activity]:
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
