"""A probe module stopped inside of its initializer, and with it the loader that is in the system call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.pinning.loader import PROBE, Loader

_SECONDS = 60.0


@contextmanager
def stopped(loader: Loader, gate: str) -> Iterator[None]:
    """While the block runs, the initializer that this loader came to stands at a gate; no other may follow it.

    The probe says so in the kernel's log (probes/pinned_gates.c), so that nothing is guessed. If the block fails, the
    loader has ended when that is told. Raises DeadlineExceeded when the gate is never reached.
    """
    guest = loader.guest
    guest.console.await_line([f"{PROBE}: at {gate}"], guest.budget(_SECONDS), since=loader.began)
    try:
        yield
    except BaseException:
        _let_go(loader)
        loader.finish()
        raise
    _let_go(loader)


def _let_go(loader: Loader) -> None:
    loader.guest.script(f"echo go >/sys/module/{PROBE}/parameters/open_gate").check()
