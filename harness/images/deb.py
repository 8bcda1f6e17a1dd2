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
from pathlib import Path
from typing import IO

from harness.core.errors import HostError
from harness.core.process import spawn, stop
from harness.images import disk_full_errors

_UNPACKING = 300.0
# The largest number of links from one file to another.
_LINKS = 8


def unpack(deb: Path, into: Path) -> None:
    """Unpack the package's files below `into`, owned by the current user. Raises HostError when that fails."""
    into.mkdir(parents=True, exist_ok=True)
    # tar, not dpkg-deb --extract, whose own tar child outlives it and keeps writing when this process is killed.
    words: list[str | Path] = ["tar", "--extract", "--no-same-owner", "--warning=no-timestamp", "--directory", into]
    # Checked here, before a caller removes its scratch directory and the disk is no longer full.
    with disk_full_errors.as_host_errors(into), _contents(deb) as archive, tempfile.TemporaryFile() as complaints:
        tar = spawn(words, stdin=archive, stderr=complaints)
        watchdog = threading.Timer(_UNPACKING, stop, [tar])
        watchdog.start()
        try:
            rc = tar.wait()
        finally:
            watchdog.cancel()
            stop(tar)
        complaints.seek(0)
        messages = complaints.read().decode(errors="replace").strip().splitlines()
        if rc:
            raise HostError(f"cannot unpack: {messages[0] if messages else rc}", where=deb.name, mend="run again")


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

    The caller may stop anywhere. Raises HostError when the package cannot be read.
    """
    try:
        with _contents(deb) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for found in archive:
                if content := archive.extractfile(found):
                    yield found.name.removeprefix("./"), content
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


@contextmanager
def _contents(deb: Path) -> Iterator[IO[bytes]]:
    """Yield the package's files as a stream of one tar archive; the reader may stop anywhere."""
    child = spawn(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    watchdog = threading.Timer(_UNPACKING, stop, [child])
    watchdog.start()
    assert child.stdout is not None
    try:
        with child.stdout as stream:
            yield stream
    finally:
        watchdog.cancel()
        stop(child)
