"""Attaches a person to a guest: a shell in it, or gdb on its kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable

from harness.core.errors import PinpointError
from harness.guest import run_gdb_on_guest, terminal
from harness.guest.guest import Guest
from harness.guest.run_gdb_on_guest import SymbolFiles
from harness.landing.layout import Layout
from harness.report.failure_evidence import ASK_SECTIONS, Evidence, sections_by_module_file
from harness.verdict.printk import without_control_codes

SHELL, GDB = "shell", "gdb"
WAYS = (SHELL, GDB)
_INSTEAD = {SHELL: "; --gdb shows where its kernel is"}
_ASK_SECONDS = 60.0


class FailedGuestAttacher:
    """Attaches a person to the guest of the first failed cell; the guest stops when the person leaves."""

    def __init__(self, way: str, clear: Callable[[], None]) -> None:
        """`clear` removes the board from the terminal."""
        self._way = way
        self._clear = clear

    def __call__(self, guest: Guest, evidence: Evidence, reason: str) -> None:
        """Print what failed and attach."""
        self._clear()
        _print(f"{guest.name} failed: {reason}")
        try:
            if self._way == GDB:
                _debug(guest, SymbolFiles(guest.image.vmlinux, evidence.slide or 0, evidence.module_section_addresses))
            else:
                _enter(guest)
        except PinpointError as error:
            _print(f"{error}{_INSTEAD.get(self._way, '')}")
        finally:
            guest.stop()


def attach(guest: Guest, way: str) -> int:
    """Attach to a healthy guest; return the exit status of the shell or of gdb. Raises PinpointError."""
    if way == SHELL:
        return _enter(guest)
    listing = guest.run_script(ASK_SECTIONS, guest.scaled_deadline(_ASK_SECONDS)).stdout
    return _debug(guest, SymbolFiles(guest.image.vmlinux, Layout(guest).slide, sections_by_module_file(guest, listing)))


def _enter(guest: Guest) -> int:
    _print(f"a shell in {guest.name}, {guest.image.release}; the guest stops when you leave it")
    return terminal.interact(guest.ssh_connection)


def _debug(guest: Guest, symbols: SymbolFiles) -> int:
    _print(f"gdb on {guest.name}, {guest.image.release}; slide {symbols.slide:#x}; the guest stops when you leave it")
    return run_gdb_on_guest.run_gdb(guest, symbols)


def _print(text: str) -> None:
    print(f"pinpoint: {without_control_codes(text)}", file=sys.stderr, flush=True)
