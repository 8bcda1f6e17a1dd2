"""Save and load a guest's whole state, memory and devices, with QEMU's migration."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.monitor import Monitor

_FILE = "state"
# From this version on, QEMU opens the file itself, because QEMU 9.1 refuses descriptors of files (migration/fd.c).
_BY_PATH = (8, 2)
_ENDED = ("MIGRATION completed", "MIGRATION failed")
# By default QEMU limits migration to 128 MiB a second, to spare a network.
_BYTES_PER_SECOND = 1 << 40


def save(monitor: Monitor, path: Path, deadline: Deadline) -> None:
    """Stop the guest and write its state to a new file. Raises GuestError when QEMU cannot, OSError, DeadlineExceeded.

    Pages of zeros take no space. The guest is stopped afterwards; `cont` would continue it.
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
    """Load a guest from a file into a QEMU that waits for one; the guest is stopped. Raises as `save` does.

    QEMU must have the same version and the same command line as the QEMU that wrote the file.
    """
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    _move(monitor, path, os.O_RDONLY, "migrate-incoming", deadline)


def _move(monitor: Monitor, path: Path, flags: int, command: str, deadline: Deadline) -> None:
    before = len(monitor.events())
    # Opened here for every version: an error has its errno, and a new file gets private permissions.
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        version = monitor.execute("query-version", deadline=deadline)["qemu"]
        by_path = (version["major"], version["minor"]) >= _BY_PATH
        if not by_path:
            monitor.pass_descriptor(descriptor, _FILE)
    finally:
        os.close(descriptor)
    monitor.execute(command, uri=f"file:{path}" if by_path else f"fd:{_FILE}", deadline=deadline)
    ended = monitor.wait_event(*_ENDED, deadline=deadline, since=before)
    if ended.data["status"] != "completed":
        reason = monitor.execute("query-migrate").get("error-desc", "it gives no reason")
        raise GuestError(f"QEMU failed to {command}: {reason}")
