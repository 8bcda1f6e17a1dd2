"""What happens while a run goes on, told once and heard by every reporter.

Rooms to the left publish steps; the board, the plain log and the results to the right listen. Nothing here knows them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum


class Phase(Enum):
    """Where a step stands."""

    STARTED = "started"
    PROGRESS = "progress"
    FINISHED = "finished"
    FAILED = "failed"
    SPENT = "spent"
    """No news, but an account: what `seconds` were spent on. There may be thousands; who shows steps passes it over."""


@dataclass(frozen=True)
class Event:
    """One piece of news about one step of one VM.

    `fraction` is 0.0-1.0 or None where the step cannot tell; `seconds` counts from the step's start, or were spent.
    """

    vm: str
    step: str
    phase: Phase
    detail: str = ""
    fraction: float | None = None
    seconds: float = 0.0


Listener = Callable[[Event], None]


@dataclass
class ProgressStep:
    """A step under way; `say` tells how far it is and what it waits for."""

    bus: Bus
    vm: str
    name: str
    began: float = field(default_factory=time.monotonic)
    closing: str = ""

    def say(self, detail: str, fraction: float | None = None) -> None:
        """Publish progress."""
        self.bus.publish(self._event(Phase.PROGRESS, detail, fraction))

    def close_with(self, detail: str) -> None:
        """What to say when the step has finished: 'from the store', '412 objects'."""
        self.closing = detail

    def _event(self, phase: Phase, detail: str, fraction: float | None = None) -> Event:
        return Event(self.vm, self.name, phase, detail, fraction, time.monotonic() - self.began)


class Bus:
    """Carries events to listeners, in order, from whatever thread they come."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()

    def subscribe(self, listener: Listener) -> None:
        """Hear every event from now on."""
        with self._lock:
            self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Hand one event to every listener."""
        with self._lock:
            for listener in self._listeners:
                listener(event)

    def spent(self, vm: str, on: str, seconds: float) -> None:
        """Account for seconds that a VM's row spent on something."""
        self.publish(Event(vm, on, Phase.SPENT, seconds=seconds))

    @contextmanager
    def clocked(self, vm: str, on: str) -> Iterator[None]:
        """Account for the wall's time that this takes, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent(vm, on, time.monotonic() - began)

    @contextmanager
    def step(self, vm: str, name: str) -> Iterator[ProgressStep]:
        """Tell that a step began, and then that it finished or failed."""
        step = ProgressStep(self, vm, name)
        self.publish(step._event(Phase.STARTED, ""))
        try:
            yield step
        except BaseException as error:
            self.publish(step._event(Phase.FAILED, str(error) or type(error).__name__))
            raise
        self.publish(step._event(Phase.FINISHED, step.closing))
