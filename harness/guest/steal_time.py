"""Guest run time with host steal time subtracted, so that timeouts do not depend on host load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_NANO = 1e-9
# Fields of /proc/PID/stat after the name in parentheses, in clock ticks (proc(5)).
_UTIME, _STIME = 11, 12


@dataclass
class GuestTime:
    """Wall-clock time minus the time in which QEMU's threads waited for a CPU or QEMU was paused.

    At least the time that one thread was on a CPU counts: two virtual CPUs that spin on one busy processor each wait
    for half of the time, and the guest does run.

    The kernel adds a wait to schedstat only when it ends (sched_info_arrive(), kernel/sched/stats.h, 6.1). A thread
    that is runnable and whose two values have not changed has therefore waited all the time.

    Source: /proc/PID/task/*/schedstat, nanoseconds on a CPU and nanoseconds waiting for a CPU
    (Documentation/scheduler/sched-stats.rst, 6.1). On a host without schedstat, nothing is subtracted for waiting.
    """

    pid: int
    is_guest_paused: Callable[[], bool]
    _began: float = field(default_factory=time.monotonic)
    _threads: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    _unfinished_waits: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._threads = self.run_and_wait_seconds_by_thread()

    def seconds_since_last_call(self) -> float:
        """Return the seconds of guest run time since the last call."""
        now, threads = time.monotonic(), self.run_and_wait_seconds_by_thread()
        wall = now - self._began
        before = [self._threads.get(thread, (0.0, 0.0)) for thread in threads]
        ran = max((after[0] - earlier[0] for after, earlier in zip(threads.values(), before, strict=True)), default=0.0)
        starved = sum(
            self._seconds_waited(thread, after, earlier, wall)
            for (thread, after), earlier in zip(threads.items(), before, strict=True)
        )
        self._began, self._threads = now, threads
        return 0.0 if self.is_guest_paused() else min(wall, max(wall - starved, ran, 0.0))

    def _seconds_waited(
        self, thread: str, after: tuple[float, float], before: tuple[float, float], wall: float
    ) -> float:
        """Return how long a thread waited for a CPU in the last `wall` seconds."""
        if after == before and self._is_runnable(thread):
            self._unfinished_waits[thread] = self._unfinished_waits.get(thread, 0.0) + wall
            return wall
        return max(0.0, after[1] - before[1] - self._unfinished_waits.pop(thread, 0.0))

    def _is_runnable(self, thread: str) -> bool:
        try:
            return Path(f"/proc/{self.pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "R"
        except (OSError, IndexError):  # The thread has exited.
            return False

    def run_and_wait_seconds(self) -> tuple[float, float]:
        """Return the seconds that all of QEMU's threads ran, and the seconds that they waited for a CPU."""
        threads = self.run_and_wait_seconds_by_thread().values()
        return sum(ran for ran, _ in threads), sum(waited for _, waited in threads)

    def run_and_wait_seconds_by_thread(self) -> Mapping[str, tuple[float, float]]:
        """Return for each of QEMU's threads the seconds that it ran, and the seconds that it waited for a CPU."""
        found = {}
        # os.listdir() and open() take a quarter of the time of Path.glob() and read_text().
        directory = f"/proc/{self.pid}/task"
        try:
            threads = os.listdir(directory)  # noqa: PTH208
        except OSError:  # QEMU has exited.
            return {}
        for thread in threads:
            try:
                with open(f"{directory}/{thread}/schedstat") as file:  # noqa: PTH123
                    words = file.read().split()
            except OSError:  # The thread has exited.
                continue
            found[thread] = int(words[0]) * _NANO, int(words[1]) * _NANO
        return found


def cpu_seconds_used(pid: int) -> float:
    """Return the CPU seconds that a process has used, including its ended threads; 0 if the process has exited."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[_UTIME]) + int(words[_STIME])) / os.sysconf("SC_CLK_TCK")
