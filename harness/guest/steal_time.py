"""Guest run time with host steal time subtracted, so that timeouts do not depend on host load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_NANO = 1e-9
# Fields of /proc/PID/stat after the name in parentheses, in clock ticks (proc(5)).
_UTIME, _STIME = 11, 12


@dataclass
class GuestTime:
    """Wall-clock time minus the time in which QEMU's threads waited for a CPU or QEMU was paused.

    Source: /proc/PID/task/*/schedstat, nanoseconds on a CPU and nanoseconds waiting for a CPU
    (Documentation/scheduler/sched-stats.rst, 6.1). On a host without schedstat, nothing is subtracted for waiting.
    """

    pid: int
    is_guest_paused: Callable[[], bool]
    _began: float = field(default_factory=time.monotonic)
    _waited: float = 0.0

    def __post_init__(self) -> None:
        self._waited = self.run_and_wait_seconds()[1]

    def seconds_since_last_call(self) -> float:
        """Return the seconds of guest run time since the last call."""
        now, waited = time.monotonic(), self.run_and_wait_seconds()[1]
        wall, starved = now - self._began, max(0.0, waited - self._waited)
        self._began, self._waited = now, waited
        return 0.0 if self.is_guest_paused() else max(0.0, wall - starved)

    def run_and_wait_seconds(self) -> tuple[float, float]:
        """Return the seconds that all of QEMU's threads ran, and the seconds that they waited for a CPU."""
        ran = waited = 0.0
        for task in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            try:
                words = task.read_text().split()
            except OSError:  # The thread or QEMU has exited.
                continue
            ran, waited = ran + int(words[0]) * _NANO, waited + int(words[1]) * _NANO
        return ran, waited


def cpu_seconds_used(pid: int) -> float:
    """Return the CPU seconds that a process has used, including its ended threads; 0 if the process has exited."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[_UTIME]) + int(words[_STIME])) / os.sysconf("SC_CLK_TCK")
