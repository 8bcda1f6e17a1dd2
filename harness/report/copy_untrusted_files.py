"""Copies files out of results that other people made: no links, FIFOs or devices, and bounded sizes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The console log of a guest is the largest file of a run, with at most 256 MiB.
_LARGEST_FILE = 512 << 20
_LARGEST_WHOLE = 8 << 30
_MOST_FILES = 100_000
# A bundle's files are at most four levels below the bundles' directory.
_DEEPEST = 16
_CHUNK = 1 << 20


class UntrustedFileCopier:
    """Copies regular files of one run, until their number or their whole size is that of no run.

    No link is followed, so that nothing outside the run is read; no link is created, so that a later copy to the same
    directory writes nothing outside it. `left_out_count` is the number of files and links that were not copied.
    """

    def __init__(self) -> None:
        self.left_out_count = 0
        self._files_left, self._bytes_left = _MOST_FILES, _LARGEST_WHOLE
        # Bundles of one run share equal files as hard links; their copies do, too.
        self._copies: dict[tuple[int, int], Path] = {}

    def copy_directory(self, source: Path, into: Path) -> None:
        """Copy the regular files below a directory, which may be absent. Raises OSError if a copy cannot be written."""
        for directory, name, place in self._files_below(source):
            self._copy(directory, name, into / place / name)

    def copy_files(self, source: Path, names: dict[str, str], into: Path) -> None:
        """Copy some files of a directory to new names. Raises OSError if a copy cannot be written."""
        for directory, name, place in self._files_below(source):
            if place == Path() and name in names:
                self._copy(directory, name, into / names[name])

    def _files_below(self, source: Path) -> Iterator[tuple[int, str, Path]]:
        """Yield a descriptor of each file's directory, the file's name, and the directory's path below `source`."""
        if source.is_symlink():
            self.left_out_count += 1
            return
        if not source.is_dir():
            return
        for path, below, names, directory in os.fwalk(source):
            place = Path(path).relative_to(source)
            links = [name for name in below if _is_link(directory, name)]
            self.left_out_count += len(links)
            if len(place.parts) >= _DEEPEST:
                self.left_out_count += len(below)
                below.clear()
            for name in names:
                yield directory, name, place

    def _copy(self, directory: int, name: str, copy: Path) -> None:
        """Copy one file unless the copy exists: of a file that two runs have, the first counts."""
        with suppress(FileExistsError, NotADirectoryError):
            if self._files_left > 0 and self._copied(directory, name, copy):
                self._files_left -= 1
                return
        self.left_out_count += not copy.is_file()

    def _copied(self, directory: int, name: str, copy: Path) -> bool:
        """Copy one file; return False for a file that is not regular, not readable or too large."""
        try:
            # It is examined before it is opened, because opening a device can have side effects.
            if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return False
            source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return False
        with os.fdopen(source, "rb") as stream:
            status = os.fstat(source)
            limit = min(_LARGEST_FILE, self._bytes_left)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                return False
            copy.parent.mkdir(parents=True, exist_ok=True)
            if same := self._copies.get((status.st_dev, status.st_ino)):
                os.link(same, copy)
                return True
            with copy.open("xb") as written:
                while limit and (chunk := stream.read(min(_CHUNK, limit))):
                    limit -= written.write(chunk)
        self._bytes_left -= copy.stat().st_size
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._copies[status.st_dev, status.st_ino] = copy
        return True


def _is_link(directory: int, name: str) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    return True
