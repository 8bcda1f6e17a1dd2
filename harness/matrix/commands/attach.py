"""A person takes over a guest: a shell in it, or gdb on its kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable

from harness.core.errors import PinpointError
from harness.guest import debugger, terminal
from harness.guest.debugger import Symbols
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.report.evidence import ASK_SECTIONS, Evidence, loaded
from harness.verdict.printk import plain

SHELL, GDB = "shell", "gdb"
WAYS = (SHELL, GDB)
_INSTEAD = {SHELL: "; --gdb shows where its kernel stands"}
_ASK_SECONDS = 60.0


class GuestAttacher:
    """Takes over the guest of the first cell that fails; the guest ends when the person has done."""

    def __init__(self, way: str, clear: Callable[[], None]) -> None:
        """`clear` gives the terminal back."""
        self._way = way
        self._clear = clear

    def __call__(self, guest: Guest, evidence: Evidence, reason: str) -> None:
        """Tell what failed and hand the guest over."""
        self._clear()
        _say(f"{guest.name} failed: {reason}")
        try:
            if self._way == GDB:
                _debug(guest, Symbols(guest.image.vmlinux, evidence.slide or 0, evidence.modules))
            else:
                _enter(guest)
        except PinpointError as error:
            _say(f"{error}{_INSTEAD.get(self._way, '')}")
        finally:
            guest.stop()


def take(guest: Guest, way: str) -> int:
    """Hand over a guest that runs well; gives the exit status of shell or gdb. Raises PinpointError."""
    if way == SHELL:
        return _enter(guest)
    listing = guest.script(ASK_SECTIONS, guest.budget(_ASK_SECONDS)).stdout
    return _debug(guest, Symbols(guest.image.vmlinux, Layout(guest).slide, loaded(guest, listing)))


def _enter(guest: Guest) -> int:
    _say(f"a shell in {guest.name}, {guest.image.release}; its end is the guest's")
    return terminal.interact(guest.link)


def _debug(guest: Guest, symbols: Symbols) -> int:
    _say(f"gdb on {guest.name}, {guest.image.release}; slide {symbols.slide:#x}; its end is the guest's")
    return debugger.debug(guest, symbols)


def _say(text: str) -> None:
    print(f"pinpoint: {plain(text)}", file=sys.stderr, flush=True)
