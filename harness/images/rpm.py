"""The files inside an RPM package (format 3 and 4): a lead, two headers, and a compressed cpio archive."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from harness.core.errors import UsageError

_LEAD_BYTES = 96
_LEAD = b"\xed\xab\xee\xdb"
_HEADER = b"\x8e\xad\xe8\x01"
_HEADER_BYTES, _ENTRY_BYTES = 16, 16
_CPIO = (b"070701", b"070702")
_CPIO_BYTES = 110
_TRAILER = "TRAILER!!!"
_LARGEST = 8 << 30
_FILE, _DIRECTORY, _LINK, _KIND = 0o100000, 0o040000, 0o120000, 0o170000
_BROKEN = (struct.error, ValueError, IndexError, OSError, EOFError, lzma.LZMAError, zstandard.ZstdError)


class _Member(NamedTuple):
    """One file of the archive."""

    name: str
    mode: int
    content: bytes
    file: tuple[int, ...] | None
    """The device and the inode of a file that has several names; None for any other member."""


def unpack(package: Path, into: Path) -> None:
    """Unpack regular files, directories and symbolic links below `into`. Raises UsageError for any other archive.

    No member can leave `into`: names with `..` are refused, and nothing is written through a link of the archive.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        archive = _payload(package.read_bytes())
        members = list(_members(archive))
        # Of a file that has several names, only one member has the content (cpio(5)).
        contents = {member.file: member.content for member in members if member.file and member.content}
        for member in members:
            content = contents.get(member.file, b"") if member.file else member.content
            _write(member._replace(content=content), into, package)
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UsageError(f"is no whole RPM package: {reason}", where=str(package), mend="fetch it again") from None


def _payload(content: bytes) -> bytes:
    """Return the unpacked cpio archive: after the lead and the signature, padded to 8 bytes, and the header."""
    if not content.startswith(_LEAD):
        raise ValueError("no RPM lead")
    signature = _after_header(content, _LEAD_BYTES)
    start = _after_header(content, signature + -signature % 8)
    packed = content[start:]
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed)
    if packed.startswith(b"\xfd7zXZ"):
        return lzma.decompress(packed)
    if packed.startswith(b"BZh"):
        return bz2.decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    return packed


def _after_header(content: bytes, start: int) -> int:
    """Return the offset after one header: magic, reserved, number of entries, bytes of data."""
    magic, _, entries, size = struct.unpack_from(">4sIII", content, start)
    if magic != _HEADER:
        raise ValueError("no RPM header")
    return start + _HEADER_BYTES + int(entries) * _ENTRY_BYTES + int(size)


def _members(archive: bytes) -> Iterator[_Member]:
    """Yield the members of a cpio archive in the "newc" form (cpio(5))."""
    place = 0
    while place + _CPIO_BYTES <= len(archive):
        head = archive[place : place + _CPIO_BYTES]
        if head[:6] not in _CPIO:
            raise ValueError("no cpio archive")
        fields = [int(head[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        mode, size, name_bytes = fields[1], fields[6], fields[11]
        if size > _LARGEST:
            raise ValueError("a member that is too large")
        name = archive[place + _CPIO_BYTES : place + _CPIO_BYTES + name_bytes - 1].decode()
        start = place + _CPIO_BYTES + name_bytes
        start += -start % 4
        if name == _TRAILER:
            return
        file = (*fields[7:9], fields[0]) if fields[4] > 1 and mode & _KIND == _FILE else None
        yield _Member(name, mode, archive[start : start + size], file)
        place = start + size + -size % 4
    raise ValueError("the archive has no end")


def _write(member: _Member, into: Path, package: Path) -> None:
    relative = Path(member.name.lstrip("/")).parts
    relative = tuple(part for part in relative if part != ".")
    if not relative:
        return
    if ".." in relative:
        raise UsageError(f"has a member {member.name[:80]!r}", where=str(package), mend="do not use it")
    place = into.joinpath(*relative)
    if not place.parent.resolve().is_relative_to(into.resolve()):
        raise UsageError(f"has a member behind a link: {member.name[:80]!r}", where=str(package), mend="do not use it")
    kind = member.mode & _KIND
    if kind == _DIRECTORY:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if kind == _LINK:
        place.symlink_to(member.content.decode())
    elif kind == _FILE:
        place.write_bytes(member.content)
        place.chmod(0o700 if member.mode & 0o100 else 0o600)
