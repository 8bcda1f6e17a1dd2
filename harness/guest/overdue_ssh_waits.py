"""Breaks an SSH connection on which a wait continues after its deadline.

paramiko writes to the socket, and takes its locks, without a timeout. A server that no longer reads would block every
thread that sends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from harness.core.deadline import Deadline
from harness.core.errors import GuestNotRun

_LAP_SECONDS = 1.0
# A wait that checks its deadline itself ends within two laps, unless the host does not run this process.
_MOST_LAPS = 10


class OverdueWaits:
    """The waits on one connection; `break_connection` is called once if one of them does not end."""

    def __init__(self, name: str, is_open: Callable[[], bool], break_connection: Callable[[], None]) -> None:
        self._name = name
        self._is_open = is_open
        self._break = break_connection
        self._lock = threading.Lock()
        self._waits: dict[object, Deadline] = {}
        self._watched = False

    @contextlib.contextmanager
    def limit(self, deadline: Deadline) -> Iterator[None]:
        """Break the connection if the block has not ended some seconds after the deadline."""
        wait = object()
        with self._lock:
            self._waits[wait] = deadline
            begin, self._watched = not self._watched, True
        if begin:
            threading.Thread(target=self._watch, name=f"waits {self._name}", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                del self._waits[wait]

    def _watch(self) -> None:
        """Count the laps of each wait since its deadline, until the connection ends."""
        laps: dict[object, int] = {}
        while self._is_open():
            time.sleep(_LAP_SECONDS)
            with self._lock:
                waits = dict(self._waits)
            laps = {wait: laps.get(wait, 0) + 1 for wait, deadline in waits.items() if _expired(deadline)}
            if max(laps.values(), default=0) > _MOST_LAPS:
                self._break()
                return


def _expired(deadline: Deadline) -> bool:
    try:
        return deadline.expired
    except GuestNotRun:
        return True
