"""One store entry as a compressed tar file, and back. The tar file may be hostile: nothing is written outside.

tarfile's data filter is not used: Debian 12's Python 3.11.2 does not have it, and later ones had escapes through links.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from harness.core.errors import UsageError
from harness.images.exchange.oci_layout import BoundedTarInfo

# OCI's media type of a tar file under zstd.
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
# The largest entry of the matrix has 140 MB in 6,500 files; a kernel with KASAN has a vmlinux of 400 MB.
LARGEST_ENTRY = 4 << 30
_MOST_FILES = 200_000
_WINDOW = 1 << 27
_CHUNK = 1 << 20


def pack(entry: Path, into: Path) -> None:
    """Write the files, directories and links below `entry`; the same entry makes the same bytes."""
    compressor = zstandard.ZstdCompressor(level=6)
    with (
        into.open("wb") as raw,
        compressor.stream_writer(raw) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in _below(entry):
            member = tarfile.TarInfo(str(path.relative_to(entry)))
            found = path.lstat()
            # make compares the times of kernel headers. Whole seconds keep their order.
            member.mtime, member.mode = int(found.st_mtime), found.st_mode & 0o755
            if stat.S_ISLNK(found.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(member)
            elif stat.S_ISDIR(found.st_mode):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = found.st_size
                with path.open("rb") as stream:
                    archive.addfile(member, stream)


def _below(directory: Path) -> Iterator[Path]:
    """Yield everything below a directory in a fixed order, a directory before its files."""
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def unpack(packed: IO[bytes], into: Path, where: str) -> None:
    """Unpack an open file into the empty directory `into`; `where` names the entry in errors.

    Raises UsageError for an absolute path, a path with `..`, a path twice, a hard link or a device, a link that leads
    out of the entry, and for more bytes or files than an entry has. Links are made after all files, so that no file is
    written through a link.
    """
    job = _Unpacking(into, where)
    try:
        with (
            zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(packed) as plain,
            tarfile.open(fileobj=plain, mode="r|", tarinfo=BoundedTarInfo) as archive,
        ):
            for member in archive:
                job.add(member, archive)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError) as error:
        raise job.refusal(f"is no tar file under zstd: {error}") from None
    job.finish()


class _Unpacking:
    def __init__(self, into: Path, where: str) -> None:
        self._into = into
        self._where = where
        self._directories = {PurePosixPath(".")}
        self._seen: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}
        self._times: dict[PurePosixPath, int] = {}
        self._bytes = 0

    def refusal(self, what: str) -> UsageError:
        return UsageError(what, where=self._where, mend="nothing was imported; export it again where it was built")

    def add(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """Write one file or directory, or remember one link."""
        shown = repr(member.name[:100])
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in member.name:
            raise self.refusal(f"{shown} is a path outside of the entry")
        if path in self._seen or path.parent not in self._directories:
            raise self.refusal(f"{shown} is there twice, or its directory is no directory")
        if len(self._seen) == _MOST_FILES:
            raise self.refusal(f"has more than {_MOST_FILES} files")
        self._seen.add(path)
        self._times[path] = int(member.mtime)
        if member.type == tarfile.DIRTYPE:
            (self._into / path).mkdir()
            self._directories.add(path)
        elif member.type == tarfile.SYMTYPE:
            self._links[path] = member.linkname
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            self._bytes += member.size
            if self._bytes > LARGEST_ENTRY:
                raise self.refusal(f"{shown} is too large: the entry has more than {LARGEST_ENTRY >> 30} GiB")
            stream = archive.extractfile(member)
            assert stream is not None
            self._write(path, stream, 0o755 if member.mode & 0o100 else 0o644)
        else:
            raise self.refusal(f"{shown} is no file, directory or symbolic link")

    def _write(self, path: PurePosixPath, stream: IO[bytes], mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._into / path, flags, mode), "wb") as copy:
            while chunk := stream.read(_CHUNK):
                copy.write(chunk)
            os.fchmod(copy.fileno(), mode)
        os.utime(self._into / path, (self._times[path], self._times[path]))

    def finish(self) -> None:
        """Make the links, then check where each one leads."""
        for path, target in self._links.items():
            (self._into / path).symlink_to(target)
        root = self._into.resolve()
        for path, target in self._links.items():
            try:
                inside = not target.startswith("/") and (self._into / path).resolve().is_relative_to(root)
            except (OSError, RuntimeError, ValueError):
                inside = False
            if not inside:
                raise self.refusal(f"{str(path)[:100]!r} is a link that leads out of the entry, or to itself")
