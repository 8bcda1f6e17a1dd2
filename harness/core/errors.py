"""What can go wrong, as one line a person can act on, with the exit status it deserves.

Statuses are the command line's contract: 2 is wrong use or a broken recipe, 3 is the harness or the host. Status 1, a
cell that failed, is no exception: it is a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

CELL_FAILED, WRONG_USE, HARNESS_FAILED, INTERRUPTED = 1, 2, 3, 130


class PinpointError(Exception):
    """One line: what is wrong, where, and how to mend it."""

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
    """The person asked for something that cannot be: an unknown VM, a bad argument."""

    exit_status = WRONG_USE


class RecipeError(UsageError):
    """A recipe, or a file it names, is broken."""


class HostError(PinpointError):
    """The host lacks something, or failed: a missing program, a full disk, a dead mirror."""


class BuildError(HostError):
    """A build step failed; carries its log so that the last lines can be shown.

    `log` is the full log's path, or None when the step never began to write one.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "", log: Path | None = None) -> None:
        super().__init__(what, where=where, mend=mend)
        self.log = log

    def last_lines(self, count: int = 20) -> list[str]:
        """The log's last `count` lines, empty when there is no log."""
        if self.log is None or not self.log.exists():
            return []
        return self.log.read_text(errors="replace").splitlines()[-count:]


class GuestError(PinpointError):
    """A guest did not do what every guest must."""


class BootError(GuestError):
    """The guest never became ready; the console tells why."""


class GuestLost(GuestError):
    """A guest that was ready no longer answers: panic, hang, or QEMU gone."""


class DeadlineExceeded(PinpointError):
    """A wait ran out of its budget."""


class HostDeadlineExceeded(DeadlineExceeded, HostError):
    """The host's own work (apt, make, QEMU's monitor) ran out of its budget: no guest hangs."""
