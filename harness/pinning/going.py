"""A module that is GOING: its exit is stopped half way, for as long as it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.pinning.holding import TARGET
from harness.pinning.removing import HOLDER

_SECONDS = 60.0


@contextmanager
def going(guest: Guest) -> Iterator[None]:
    """`pinpoint_pins` loaded and being removed; its exit waits at a gate (probes/pinned_gates.c) while the block runs.

    The gate says so in the kernel's log, so that nothing is guessed. Raises GuestError when the removal then fails.
    """
    deadline = guest.budget(_SECONDS)
    since = guest.console.position
    guest.run("insmod", guest.ship(TARGET), "gates=leaving").check()
    with guest.talk(guest.program(HOLDER), "delete", TARGET) as removal:
        guest.console.await_line([f"{TARGET}: at leaving"], deadline, since=since)
        try:
            yield
        finally:
            guest.script(f"echo go >/sys/module/{TARGET}/parameters/open_gate").check()
            status = removal.status(deadline)
    if status:
        raise GuestError(f"{TARGET} was not removed: status {status}", where=guest.name)
