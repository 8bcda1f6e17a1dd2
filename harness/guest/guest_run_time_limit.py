"""A time limit for a guest without a heartbeat: while it boots, is thawed or is frozen.

Only the time in which the host runs the guest counts. On a busy host a healthy guest can need many times its usual time
to boot, and that shows nothing about its kernel.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, HostError, PinpointError
from harness.guest.guest import Guest
from harness.guest.guest_run_deadline import guest_not_run
from harness.guest.steal_time import GuestTime

# A host has failed if it takes more than this many times as long, and this many seconds, to run a guest for its limit.
_LONGEST_FACTOR = 10
_SHORTEST_SECONDS = 600.0
_LAP_SECONDS = 0.5


class GuestRunTimeLimit:
    """Ends all waits for a guest, in the `with` block, when it has run for `seconds`.

    `deadline` is for the waits in the block: it bounds them if the host does not run the guest at all.
    """

    def __init__(self, guest: Guest, seconds: float) -> None:
        self._guest = guest
        self._seconds = seconds
        self._began = time.monotonic()
        self._ran = 0.0
        self._time = GuestTime(guest.pid, lambda: guest.monitor.is_guest_paused)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"limit {guest.name}", daemon=True)
        self.deadline = Deadline.after(max(seconds * _LONGEST_FACTOR, _SHORTEST_SECONDS))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def explain(self, failure: PinpointError) -> PinpointError:
        """Return the error for a failure in the block: the guest's, or the host's if that is the cause."""
        if isinstance(failure, HostError):
            return failure
        waited = time.monotonic() - self._began
        if self._ran >= self._seconds:
            return DeadlineExceeded(f"it was not ready in time: it ran for {self._ran:.0f} s of {waited:.0f} s")
        if isinstance(failure, DeadlineExceeded) and self.deadline.expired:
            return guest_not_run(self._guest.name, self._ran, waited)
        return failure

    def _watch(self) -> None:
        while not self._over.wait(min(_LAP_SECONDS, self._seconds)):
            self._ran += self._time.seconds_since_last_call()
            if self._ran >= self._seconds:
                self._guest.give_up("it was not ready in time")
                return
