"""Errors of the harness: each is one line that a person can act on, with an exit status.

The statuses are the command line's contract: 2 is wrong use or a broken recipe, 3 is the harness or the host. Status 1,
a failed cell, is a verdict and has no exception.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

CELL_FAILED, WRONG_USE, HARNESS_FAILED, INTERRUPTED = 1, 2, 3, 130


class PinpointError(Exception):
    """An error in one line: what is wrong, where, and how to mend it."""

    exit_status: ClassVar[int] = HARNESS_FAILED

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        mend = f"; {self.mend}" if self.mend else ""
        return f"{place}{self.what}{mend}"


class UsageError(PinpointError):
    """The user requested something impossible: an unknown VM, a bad argument."""

    exit_status = WRONG_USE


class RecipeError(UsageError):
    """A recipe, or a file that it names, is broken."""


class HostError(PinpointError):
    """The host lacks something or failed: a missing program, a full disk, a mirror that does not respond."""


class BuildError(HostError):
    """A build step failed; the error has the step's log, so that the last lines can be shown.

    `log` is the path of the full log, or None if the step wrote none.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "", log: Path | None = None) -> None:
        super().__init__(what, where=where, mend=mend)
        self.log = log

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the last `count` lines of the log; empty if there is no log."""
        if self.log is None or not self.log.exists():
            return []
        return self.log.read_text(errors="replace").splitlines()[-count:]


class GuestError(PinpointError):
    """A guest did not do something that every guest must do."""


class UnmappedError(GuestError):
    """No page is mapped at an address of a guest's kernel."""


class BootError(GuestError):
    """The guest never became ready; the console shows why."""


class GuestLost(GuestError):
    """A guest that was ready no longer responds: it panicked or hangs, or QEMU ended."""

    # QMP's reason for a shutdown that the monitor's `quit` caused: the harness ended this guest.
    STOPPED_BY_HARNESS = "host-qmp-quit"

    @property
    def stopped_by_harness(self) -> bool:
        """True if the harness itself ended the guest, and the guest was used afterwards."""
        return self.STOPPED_BY_HARNESS in self.what


class DeadlineExceeded(PinpointError):
    """A wait did not end within its time budget."""


class HostDeadlineExceeded(DeadlineExceeded, HostError):
    """Work of the host itself (apt, make, QEMU's monitor) exceeded its time budget; this is not a hang of a guest."""


class GuestNotRun(HostError):
    """The host ran a guest for too little of the time of a wait; this shows nothing about the guest."""
