"""How much time the host really gave a guest: a budget in it is the same on an idle host and on one that compiles."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_NANO = 1e-9
# Of /proc/PID/stat, behind the name in brackets, in clock ticks (proc(5)).
_UTIME, _STIME = 11, 12


@dataclass
class GuestTime:
    """Time on the wall, less what QEMU's threads stood ready to run in and were not let, less what it was paused.

    From the kernel's own account, /proc/PID/task/*/schedstat: nanoseconds on a CPU, nanoseconds waiting for one
    (Documentation/scheduler/sched-stats.rst, 6.1). A host without it gives all of the wall's time.
    """

    pid: int
    paused: Callable[[], bool]
    _began: float = field(default_factory=time.monotonic)
    _waited: float = 0.0

    def __post_init__(self) -> None:
        self._waited = self.account()[1]

    def lap(self) -> float:
        """Seconds given since the last lap."""
        now, waited = time.monotonic(), self.account()[1]
        wall, starved = now - self._began, max(0.0, waited - self._waited)
        self._began, self._waited = now, waited
        return 0.0 if self.paused() else max(0.0, wall - starved)

    def account(self) -> tuple[float, float]:
        """Seconds that all of QEMU's threads ran, and that they waited for a CPU."""
        ran = waited = 0.0
        for task in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            try:
                words = task.read_text().split()
            except OSError:  # The thread, or QEMU, is gone.
                continue
            ran, waited = ran + int(words[0]) * _NANO, waited + int(words[1]) * _NANO
        return ran, waited


def used(pid: int) -> float:
    """Processor seconds that a process has used, those of threads that have ended included; 0 when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[_UTIME]) + int(words[_STIME])) / os.sysconf("SC_CLK_TCK")
