"""The whole state of a guest, its memory and its devices, into a file and out of it: QEMU's migration."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.monitor import Monitor

_FILE = "state"
# From this version on QEMU opens the file itself: it came to refuse descriptors of files (migration/fd.c, 9.1).
_BY_PATH = (8, 2)
_ENDED = ("MIGRATION completed", "MIGRATION failed")
# By default QEMU sends 128 MiB a second, for the sake of a network.
_BYTES_PER_SECOND = 1 << 40


def save(monitor: Monitor, path: Path, deadline: Deadline) -> None:
    """Stop the guest and write its state to a new file. Raises GuestError when QEMU cannot, OSError, DeadlineExceeded.

    Pages of zeros take no room. The guest stands still afterwards and can go on with `cont`.
    """
    monitor.execute_all(
        [
            ("stop", {}),
            ("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}),
            ("migrate-set-parameters", {"max_bandwidth": _BYTES_PER_SECOND}),
        ],
        deadline=deadline,
    )
    _move(monitor, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "migrate", deadline)


def load(monitor: Monitor, path: Path, deadline: Deadline) -> None:
    """Give a QEMU that waits for one the guest in a file; it stands still. Raises as `save` does.

    QEMU must be the very version that wrote it, with the same command line.
    """
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    _move(monitor, path, os.O_RDONLY, "migrate-incoming", deadline)


def _move(monitor: Monitor, path: Path, flags: int, command: str, deadline: Deadline) -> None:
    before = len(monitor.events())
    # Opened here in any case: a file that cannot be is reported as such, and a new one is private.
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        version = monitor.execute("query-version", deadline=deadline)["qemu"]
        by_path = (version["major"], version["minor"]) >= _BY_PATH
        if not by_path:
            monitor.lend(descriptor, _FILE)
    finally:
        os.close(descriptor)
    monitor.execute(command, uri=f"file:{path}" if by_path else f"fd:{_FILE}", deadline=deadline)
    ended = monitor.wait_event(*_ENDED, deadline=deadline, since=before)
    if ended.data["status"] != "completed":
        told = monitor.execute("query-migrate").get("error-desc", "it does not say why")
        raise GuestError(f"QEMU failed to {command}: {told}")
