"""The files inside a Debian binary package."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.core.errors import HostError
from harness.core.process import spawn, stop
from harness.images import disk_full_errors

_UNPACKING = 300.0
_CHUNK = 1 << 16
# The largest number of links from one file to another.
_LINKS = 8


def unpack(deb: Path, into: Path) -> None:
    """Unpack the package's files below `into`, owned by the current user. Raises HostError when that fails."""
    into.mkdir(parents=True, exist_ok=True)
    # tar, not dpkg-deb --extract, whose own tar child outlives it and keeps writing when this process is killed.
    words: list[str | Path] = ["tar", "--extract", "--no-same-owner", "--warning=no-timestamp", "--directory", into]
    # Checked here, before a caller removes its scratch directory and the disk is no longer full.
    with disk_full_errors.as_host_errors(into), _contents(deb) as archive, tempfile.TemporaryFile() as complaints:
        tar = spawn(words, stdin=archive.stream, stderr=complaints)
        try:
            rc = tar.wait(_UNPACKING)
        except subprocess.TimeoutExpired:
            raise HostError("cannot unpack: tar did not end in time", where=deb.name, mend="run again") from None
        finally:
            stop(tar)
        complaints.seek(0)
        messages = complaints.read().decode(errors="replace").strip().splitlines()
        if rc:
            raise HostError(f"cannot unpack: {messages[0] if messages else rc}", where=deb.name, mend="run again")
        archive.demand_complete()


def read_first_file_named(debs: Sequence[Path], names: Collection[str]) -> bytes:
    """Return the content of the first file in the packages with one of the names, paths without a leading slash.

    Unpacking stops at that file. Raises HostError when no package has such a file.
    """
    content = io.BytesIO()
    copy_first_file_named(debs, names, content)
    return content.getvalue()


def copy_first_file_named(debs: Sequence[Path], names: Collection[str], into: IO[bytes]) -> None:
    """Write the file that `read_first_file_named` would return to a stream, in pieces; raise what that raises."""
    for deb in debs:
        for path, content in files_in_order(deb):
            if path in names:
                shutil.copyfileobj(content, into)
                return
    listed, where = " or ".join(names), ", ".join(deb.name for deb in debs)
    raise HostError(f"has no file {listed}", where=where, mend="has Debian moved it elsewhere?")


def files_in_order(deb: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the path of each file, without a leading slash, and its content, which is valid until the next file.

    Links and directories are left out. The caller may stop anywhere. Raises HostError when the package cannot be read.
    """
    try:
        with _contents(deb) as archive, tarfile.open(fileobj=archive.stream, mode="r|") as members:
            for found in members:
                # A stream cannot go back to the file that a link leads to; extractfile() raises for every link.
                if found.isreg() and (content := members.extractfile(found)):
                    yield found.name.removeprefix("./"), content
            archive.demand_complete()
    except tarfile.TarError as error:
        raise HostError(f"cannot unpack: {error}", where=deb.name, mend="run again") from None


def follow_in_tree(path: Path, tree: Path) -> Path | None:
    """Return the file or directory that a path below unpacked packages leads to; None if there is none.

    An absolute link leads to a path below `tree`, and no link leads to a file of this host.
    """
    for _ in range(_LINKS):
        if not path.is_symlink():
            break
        target = path.readlink()
        path = tree / target.relative_to("/") if target.is_absolute() else path.parent / target
    resolved = path.resolve()
    return resolved if resolved.is_relative_to(tree.resolve()) and resolved.exists() else None


@dataclass(frozen=True)
class _Archive:
    """A package's files as a stream of one tar archive, and the dpkg-deb that writes it."""

    deb: Path
    child: subprocess.Popen[bytes]
    stream: IO[bytes]

    def demand_complete(self) -> None:
        """Raise HostError if dpkg-deb did not write the whole archive; the reader must have read it to its end.

        tar and tarfile do not report an archive that ends between two files.
        """
        try:
            # dpkg-deb may still write the padding at the end of the archive.
            while self.stream.read(_CHUNK):
                pass
            rc = self.child.wait(_UNPACKING)
        except subprocess.TimeoutExpired:
            raise HostError("cannot unpack: dpkg-deb did not end in time", where=self.deb.name) from None
        if rc:
            raise HostError(f"cannot unpack: dpkg-deb ended with status {rc}", where=self.deb.name, mend="run again")


@contextmanager
def _contents(deb: Path) -> Iterator[_Archive]:
    """Yield the package's files as a stream of one tar archive; the reader may stop anywhere."""
    child = spawn(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    watchdog = threading.Timer(_UNPACKING, stop, [child])
    watchdog.start()
    assert child.stdout is not None
    try:
        with child.stdout as stream:
            yield _Archive(deb, child, stream)
    finally:
        watchdog.cancel()
        stop(child)
