"""The files of an untrusted bundle: opened without following links, and bounded in number and size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from harness.core.errors import UsageError

# In our own bundles the description has a few KiB; console, kallsyms and modules have some ten MiB.
LARGEST_DESCRIPTION = 4 << 20
_LARGEST_WHOLE = 1 << 30
_MOST_FILES = 10_000
_LONGEST_PATH = 1024
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: the open must not block if a FIFO has replaced the file after it was examined.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotInBundle(Exception):
    """A path is not a regular file inside the bundle; the message explains why."""


class BundleFiles:
    """The regular files below one directory.

    Every component of a path is opened relative to its parent, and none may be a link. So no path leads out of the
    directory, whatever it contains, and even if another process changes it at the same time.
    """

    def __init__(self, directory: Path) -> None:
        """Raises OSError or ValueError when the directory cannot be opened."""
        self._root = os.open(directory, _DIRECTORY)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root)

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file. Raises OSError, and NotInBundle, also for more than `limit` bytes."""
        with self._opened(name) as (handle, size):
            if size > limit:
                raise NotInBundle(f"is larger than {limit >> 20} MiB")
            content = bytearray()
            while chunk := os.read(handle, _CHUNK):
                content += chunk
                if len(content) > limit:
                    raise NotInBundle(f"is larger than {limit >> 20} MiB")
            return bytes(content)

    def demand_equal_hashes(self, wanted: Mapping[str, str], where: str) -> None:
        """Check the SHA-256 of each file in `wanted`, by path. Raises UsageError for the first that differs."""
        if len(wanted) > _MOST_FILES:
            raise UsageError(f"names more than {_MOST_FILES} files", where=where, mend="do not trust it")
        left = _LARGEST_WHOLE
        for name, digest in wanted.items():
            try:
                found, size = self._sha256(name, left)
            except FileNotFoundError:
                raise UsageError(
                    f"{name!r} is missing: the bundle is not whole", where=where, mend="copy it again"
                ) from None
            except (NotInBundle, OSError, ValueError) as error:
                what = error.strerror if isinstance(error, OSError) else str(error)
                raise UsageError(f"{name[:80]!r} {what}", where=where, mend="do not trust it") from None
            left -= size
            if found != digest:
                raise UsageError(f"{name!r} has changed: the bundle is not whole", where=where, mend="copy it again")

    def _sha256(self, name: str, limit: int) -> tuple[str, int]:
        """Return a file's SHA-256, in hex, and its size in bytes."""
        with self._opened(name) as (handle, size):
            if size > limit:
                raise NotInBundle(f"makes the bundle larger than {_LARGEST_WHOLE >> 20} MiB")
            total, count = hashlib.sha256(), 0
            while chunk := os.read(handle, _CHUNK):
                count += len(chunk)
                if count > limit:
                    raise NotInBundle(f"makes the bundle larger than {_LARGEST_WHOLE >> 20} MiB")
                total.update(chunk)
            return total.hexdigest(), count

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield a file's descriptor and its size in bytes."""
        *above, last = _components(name)
        directory = os.dup(self._root)
        try:
            for part in above:
                if not stat.S_ISDIR(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode):
                    raise NotInBundle("is reached through a link")
                below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                os.close(directory)
                directory = below
            # It is examined before it is opened, because opening a device can have side effects.
            if not stat.S_ISREG(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                raise NotInBundle("is no regular file")
            handle = os.open(last, _FILE, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise NotInBundle("is no regular file")
            yield handle, status.st_size
        finally:
            os.close(handle)


def _components(name: str) -> list[str]:
    """Return the components of a path inside the bundle. Raises NotInBundle."""
    path = PurePosixPath(name)
    if not name or len(name) > _LONGEST_PATH or not name.isprintable():
        raise NotInBundle("is no path of a bundle's file")
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise NotInBundle("is not inside the bundle")
    return list(path.parts)
