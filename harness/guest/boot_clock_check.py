"""Check that the clock of a booted guest keeps the host's time.

Some kernels measure the frequency of their timer at boot, and a busy host makes the measurement wrong. On MIPS's Malta,
estimate_frequencies() (arch/mips/mti-malta/malta-time.c, 6.1) counts CPU cycles between two updates of the real-time
clock. It polls a flag that QEMU sets for 244 us before each update. A processor that the host does not run in these
244 us misses the update, and after 26 s the count exceeds its 32 bits. With such a clock the guest's own time limits
end too early, among them that of the soft lockup detector.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.core.errors import HostError
from harness.guest.heartbeat import LOOP
from harness.guest.result import Result, parsing_guest_text

# Seconds since boot by the guest's clock, with two digits after the point, and seconds that it was idle (proc(5)).
READ_CLOCK_COMMAND = "cat /proc/uptime"
_RESOLUTION = 0.01
# A clock that is this many times too fast is wrong. An emulated clock differs from the host's by much less.
_TOO_FAST = 1.5


class GuestClockWrong(HostError):
    """The guest's clock is too fast: its kernel measured a wrong frequency at boot. The next boot may be right."""


def check_boot_clock(run: Callable[[str], Result]) -> None:
    """Compare the guest's clock with the host's during a loop of known length; `run` runs a script in the guest.

    Raises GuestClockWrong if the guest's clock is too fast, and GuestError if it cannot be read.
    """
    began = time.monotonic()
    first = _seconds_since_boot(run(READ_CLOCK_COMMAND))
    name = run(LOOP).check().guest
    guest_seconds = _seconds_since_boot(run(READ_CLOCK_COMMAND)) - first - _RESOLUTION
    host_seconds = time.monotonic() - began
    if guest_seconds > _TOO_FAST * host_seconds:
        raise GuestClockWrong(
            f"its clock runs {guest_seconds / host_seconds:.1f} times as fast as the host's: its kernel measured the "
            "clock's frequency at boot while the host was busy",
            where=name,
            mend="run it again",
        )


def _seconds_since_boot(result: Result) -> float:
    with parsing_guest_text("the guest's clock"):
        return float(result.check().stdout.split()[0])
