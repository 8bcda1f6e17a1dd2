"""Upload of many files to a guest in one round trip.

Under emulation, a round trip costs more than the content of most files.
"""

from __future__ import annotations

import gzip
import io
import shlex
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.core.files import sha256
from harness.guest.ssh import SshConnection


class HostFileWithMode(NamedTuple):
    """A file of the host and its mode in the guest."""

    file: Path
    mode: int


def put_all(link: SshConnection, pieces: Mapping[str, HostFileWithMode], guest: str, deadline: Deadline) -> None:
    """Write files in a guest and compare each by SHA-256; `pieces` maps paths in the guest to files.

    Raises GuestError when a file arrived damaged, GuestLost, DeadlineExceeded.
    """
    if not pieces:
        return
    listed = shlex.join(pieces)
    answer = link.run(("sh", "-c", f"tar -xzf - -C / && sha256sum {listed}"), deadline, stdin=_archive(pieces)).check()
    arrived = answer.stdout.splitlines()
    damaged = [path for path, piece in pieces.items() if f"{sha256(piece.file)}  {path}" not in arrived]
    if damaged:
        raise GuestError(f"arrived damaged: {', '.join(damaged)}", where=guest)


def _archive(pieces: Mapping[str, HostFileWithMode]) -> bytes:
    """Return a lightly compressed tar archive: a guest decompresses faster than it decrypts."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for path, piece in pieces.items():
            member = tarfile.TarInfo(path.removeprefix("/"))
            member.size, member.mode = piece.file.stat().st_size, piece.mode
            with piece.file.open("rb") as content:
                archive.addfile(member, content)
    return gzip.compress(written.getvalue(), compresslevel=1)
