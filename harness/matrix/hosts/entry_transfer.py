"""Store entries between the controller and a host: packed, sent in parts, and compared with their hashes on arrival."""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.errors import HostError
from harness.core.events import ProgressStep
from harness.core.files import sha256
from harness.images.exchange import entry_archive
from harness.images.store import Store, key_of
from harness.matrix.hosts import entries_on_host
from harness.matrix.hosts.entries_on_host import PackedEntry

# Runs a function on one host: a name for the task, the function, and its arguments.
OnHost = Callable[..., Any]


class TransferLocks:
    """Locks by name, for transfers of the same content to the same host: the second one waits and finds it there."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def of(self, *names: str) -> threading.Lock:
        """Return the lock of a name of one or more words."""
        with self._lock:
            return self._locks[" ".join(names)]


def send_file(file: Path, name: str, on_host: OnHost, step: ProgressStep) -> str:
    """Send a file in parts to the arrivals of a host, and return its name there."""
    arrival: str = on_host(f"arrival-{name}", entries_on_host.begin_arrival, name)
    with file.open("rb") as content:
        size, sent = file.stat().st_size, 0
        while chunk := content.read(entries_on_host.CHUNK):
            on_host(f"chunk-{name}", entries_on_host.receive_chunk, arrival, chunk)
            sent += len(chunk)
            step.publish_progress(f"{sent >> 20} MiB", sent / size)
    return arrival


def send_entry(store: Store, kind: str, key: str, on_host: OnHost, step: ProgressStep) -> None:
    """Send an entry of the controller's store. Raises HostError if it does not arrive, OSError if it is gone."""
    entry = store.root / f"{kind}-{key}"
    with tempfile.TemporaryDirectory(prefix="pinpoint-entry-") as directory:
        packed = Path(directory, entry.name)
        entry_archive.pack(entry, packed)
        arrival = send_file(packed, entry.name, on_host, step)
        given = arrival, kind, key, sha256(packed)
        if error := on_host(f"import-{entry.name}", entries_on_host.import_entry, *given):
            raise HostError(error)


def send_entry_unless_there(store: Store, kind: str, parts: Sequence[str], on_host: OnHost, step: ProgressStep) -> None:
    """Send an entry of the controller's store to a host that lacks it, if the controller has it. Raises HostError."""
    if store.present(kind, parts) and not on_host(f"has-{kind}", entries_on_host.has_entry, kind, parts):
        send_entry(store, kind, key_of(parts), on_host, step)


def fetch_entry(packed: PackedEntry, store: Store, on_host: OnHost, step: ProgressStep) -> None:
    """Add an entry that a host has packed to the controller's store.

    Raises HostError if it does not arrive whole, UsageError if it is not the entry of that key.
    """
    name = f"{packed.kind}-{packed.key}"
    with tempfile.TemporaryDirectory(prefix="pinpoint-entry-") as directory:
        arrived = Path(directory, "entry.tar")
        with arrived.open("wb") as file:
            while file.tell() < packed.size:
                chunk = on_host("chunk", entries_on_host.read_chunk, packed.archive, file.tell())
                if not chunk:
                    raise HostError(f"only {file.tell()} of {packed.size} bytes arrived", where=name)
                file.write(chunk)
                step.publish_progress(f"{packed.kind}: {file.tell() >> 20} MiB", file.tell() / packed.size)
        on_host("remove", entries_on_host.remove_archive, packed.archive)
        if sha256(arrived) != packed.digest:
            raise HostError("arrived damaged", where=name)
        store.adopt(packed.kind, packed.key, fill=partial(entries_on_host.unpack, arrived, name))
