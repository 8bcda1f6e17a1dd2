"""Many files for a guest in one round trip: under emulation each of its own costs more than most files do."""

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
from harness.guest.ssh import SshLink


class Piece(NamedTuple):
    """A file of this host, and what may be done with it in the guest."""

    file: Path
    mode: int


def put_all(link: SshLink, pieces: Mapping[str, Piece], guest: str, deadline: Deadline) -> None:
    """Write files in a guest, by their paths there, and compare each by SHA-256.

    Raises GuestError when something arrived otherwise than it was sent, GuestLost, DeadlineExceeded.
    """
    if not pieces:
        return
    listed = shlex.join(pieces)
    answer = link.run(("sh", "-c", f"tar -xzf - -C / && sha256sum {listed}"), deadline, stdin=_archive(pieces)).check()
    arrived = answer.stdout.splitlines()
    damaged = [path for path, piece in pieces.items() if f"{sha256(piece.file)}  {path}" not in arrived]
    if damaged:
        raise GuestError(f"arrived damaged: {', '.join(damaged)}", where=guest)


def _archive(pieces: Mapping[str, Piece]) -> bytes:
    """A tar archive, squeezed a little: a guest unpacks faster than it decrypts."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for path, piece in pieces.items():
            member = tarfile.TarInfo(path.removeprefix("/"))
            member.size, member.mode = piece.file.stat().st_size, piece.mode
            with piece.file.open("rb") as content:
                archive.addfile(member, content)
    return gzip.compress(written.getvalue(), compresslevel=1)
