"""Events of a run, published once and delivered to every reporter.

Lower packages publish steps. The board, the plain log and the results receive them. This module imports neither side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum


class EventKind(Enum):
    """Kind of an event: the state of a step, or time that was spent."""

    STARTED = "started"
    PROGRESS = "progress"
    FINISHED = "finished"
    FAILED = "failed"
    SPENT = "spent"
    """No change of state: records what `seconds` were spent on. Displays of steps ignore it: a run has thousands."""


@dataclass(frozen=True)
class Event:
    """One change in one step of one VM.

    `fraction` is 0.0-1.0, or None if the step cannot measure it. `seconds` is the time since the step began; for
    `EventKind.SPENT`, the time spent. `worker` names the lane of the process that published it, empty for this process.
    """

    vm: str
    step: str
    kind: EventKind
    detail: str = ""
    fraction: float | None = None
    seconds: float = 0.0
    worker: str = ""


Listener = Callable[[Event], None]


@dataclass
class ProgressStep:
    """A step in progress; `publish_progress` publishes its progress and what it waits for."""

    bus: Bus
    vm: str
    name: str
    began: float = field(default_factory=time.monotonic)
    final_detail: str = ""

    def publish_progress(self, detail: str, fraction: float | None = None) -> None:
        """Publish progress."""
        self.bus.publish(self._event(EventKind.PROGRESS, detail, fraction))

    def set_final_detail(self, detail: str) -> None:
        """Set the detail of the FINISHED event, such as 'from the store' or '412 objects'."""
        self.final_detail = detail

    def _event(self, kind: EventKind, detail: str, fraction: float | None = None) -> Event:
        return Event(self.vm, self.name, kind, detail, fraction, time.monotonic() - self.began)


class Bus:
    """Deliver events to listeners, in order, from any thread."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()

    def add_listener(self, listener: Listener) -> None:
        """Call `listener` with every event from now on."""
        with self._lock:
            self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Pass one event to every listener."""
        with self._lock:
            for listener in self._listeners:
                listener(event)

    def record_seconds(self, vm: str, on: str, seconds: float) -> None:
        """Record the seconds that the row of a VM spent on one activity."""
        self.publish(Event(vm, on, EventKind.SPENT, seconds=seconds))

    @contextmanager
    def timed(self, vm: str, on: str) -> Iterator[None]:
        """Record the wall-clock time of the block, also when the block raises."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.record_seconds(vm, on, time.monotonic() - began)

    @contextmanager
    def step(self, vm: str, name: str) -> Iterator[ProgressStep]:
        """Publish the start of a step, and at the end whether it finished or failed."""
        step = ProgressStep(self, vm, name)
        self.publish(step._event(EventKind.STARTED, ""))
        try:
            yield step
        except BaseException as error:
            self.publish(step._event(EventKind.FAILED, str(error) or type(error).__name__))
            raise
        self.publish(step._event(EventKind.FINISHED, step.final_detail))
