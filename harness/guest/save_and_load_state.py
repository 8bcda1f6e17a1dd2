"""Save and load a guest's whole state, memory and devices, with QEMU's migration."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, HostDeadlineExceeded
from harness.guest.monitor import Monitor

_FILE = "state"
# From this version on, QEMU takes the file from a set of descriptors that it was given, because QEMU 9.1 refuses
# descriptors of files by name (migration/fd.c). Its user may open no path in the store.
_BY_SET = (8, 2)
_SET = 1
_ENDED = ("MIGRATION completed", "MIGRATION failed")
# By default QEMU limits migration to 128 MiB a second, to spare a network.
_BYTES_PER_SECOND = 1 << 40


def save_guest_state(monitor: Monitor, path: Path, deadline: Deadline) -> None:
    """Stop the guest and write its state to a new file.

    Pages of zeros take no space. The guest is stopped afterwards; `cont` would continue it. Raises GuestError when QEMU
    cannot write it, OSError, HostDeadlineExceeded.
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


def load_guest_state(monitor: Monitor, path: Path, deadline: Deadline) -> None:
    """Load a guest from a file into a QEMU that waits for one; the guest is stopped. Raises as `save_guest_state` does.

    QEMU must have the same version and the same command line as the QEMU that wrote the file.
    """
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    _move(monitor, path, os.O_RDONLY, "migrate-incoming", deadline)


def _move(monitor: Monitor, path: Path, flags: int, command: str, deadline: Deadline) -> None:
    before = len(monitor.events())
    # Opened here: an error has its errno, a new file gets private permissions, and QEMU's user could not open it.
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        version = monitor.execute("query-version", deadline=deadline)["qemu"]
        by_set = (version["major"], version["minor"]) >= _BY_SET
        if by_set:
            monitor.add_to_fd_set(descriptor, _SET)
        else:
            monitor.pass_descriptor(descriptor, _FILE)
    finally:
        os.close(descriptor)
    monitor.execute(command, uri=f"file:/dev/fdset/{_SET}" if by_set else f"fd:{_FILE}", deadline=deadline)
    try:
        ended = monitor.wait_event(*_ENDED, deadline=deadline, since=before)
    except DeadlineExceeded as late:
        raise HostDeadlineExceeded(late.what, where=late.where) from None
    if by_set:
        monitor.execute("remove-fd", fdset_id=_SET)
    if ended.data["status"] != "completed":
        reason = monitor.execute("query-migrate").get("error-desc", "it gives no reason")
        raise GuestError(f"QEMU failed to {command}: {reason}")
