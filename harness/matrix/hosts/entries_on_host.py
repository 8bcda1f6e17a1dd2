"""What runs on a host for store entries that travel: each is packed there and read in parts, or arrives in parts."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.core import paths
from harness.core.errors import PinpointError
from harness.core.events import Bus
from harness.core.files import sha256
from harness.images.build_context import BuildContext
from harness.images.exchange import entry_archive
from harness.images.store import key_of

CHUNK = 8 << 20
_LOST_AFTER = 24 * 3600.0


@dataclass(frozen=True)
class PackedEntry:
    """An entry that was packed on a host: the path of the archive there, its size in bytes and its SHA-256."""

    kind: str
    key: str
    archive: str
    size: int
    digest: str


def arrivals() -> Path:
    """Return the directory of files that arrive in parts."""
    place = paths.cache() / "arrivals"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def begin_arrival(name: str) -> str:
    """Make an empty file for what arrives in parts, and return its name; no other transfer writes to it.

    Two VMs with the same image, and two controllers, may send the same content at once. A file to which nothing was
    written for a day is of a transfer that was lost, and is removed.
    """
    place = arrivals()
    for old in place.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _LOST_AFTER:
                old.unlink()
    descriptor, path = tempfile.mkstemp(prefix=f"{name}.", suffix=".tar", dir=place)
    os.close(descriptor)
    return Path(path).name


def receive_chunk(name: str, chunk: bytes) -> None:
    """Append to a file that arrives in parts."""
    with (arrivals() / name).open("ab") as file:
        file.write(chunk)


def has_entry(kind: str, parts: Sequence[str]) -> bool:
    """Return True if this host's store has the entry."""
    return BuildContext.in_cache(Bus()).store.present(kind, parts)


def import_entry(name: str, kind: str, key: str, digest: str) -> str:
    """Add an entry that has arrived to the store. Return an error, or nothing."""
    arrived = arrivals() / name
    try:
        if sha256(arrived) != digest:
            return f"{kind}-{key} arrived damaged"
        BuildContext.in_cache(Bus()).store.adopt(kind, key, fill=partial(unpack, arrived, f"{kind}-{key}"))
    except PinpointError as error:
        return str(error)
    finally:
        arrived.unlink(missing_ok=True)
    return ""


def unpack(archive: Path, name: str, directory: Path) -> None:
    """Unpack the archive of an entry into an empty directory. Raises UsageError."""
    with archive.open("rb") as packed:
        entry_archive.unpack(packed, directory, name)


def pack_entry(kind: str, parts: Sequence[str]) -> PackedEntry:
    """Pack an entry of this host's store into a directory of its own."""
    place = paths.cache() / "leaving"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    archive = Path(tempfile.mkdtemp(dir=place), "entry.tar")
    try:
        entry_archive.pack(BuildContext.in_cache(Bus()).store.entry_path(kind, parts), archive)
        return PackedEntry(kind, key_of(parts), str(archive), archive.stat().st_size, sha256(archive))
    except BaseException:
        remove_archive(str(archive))
        raise


def read_chunk(archive: str, offset: int) -> bytes:
    """Return a part of an archive, at most `CHUNK` bytes."""
    with Path(archive).open("rb") as file:
        file.seek(offset)
        return file.read(CHUNK)


def remove_archive(archive: str) -> None:
    """Remove an archive that the controller has read."""
    shutil.rmtree(Path(archive).parent, ignore_errors=True)
