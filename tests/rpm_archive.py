"""Writes RPM packages for tests: a lead, two headers without tags, and a compressed cpio archive (cpio(5))."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

LEAD = b"\xed\xab\xee\xdb" + bytes(92)


def header(entries: int = 0, data: bytes = b"") -> bytes:
    """Return a header with empty entries."""
    return struct.pack(">4sIII", b"\x8e\xad\xe8\x01", 0, entries, len(data)) + bytes(16 * entries) + data


def member(name: str, mode: int, content: bytes, inode: int = 1, names: int = 1) -> bytes:
    """Return a member of a cpio archive in the "newc" form; `names` is the number of names of its inode."""
    text = name.encode() + b"\0"
    fields = [inode, mode, 0, 0, names, 0, len(content), 0, 0, 0, 0, len(text), 0]
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + text
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def package(members: Iterable[bytes], compress: Callable[[bytes], bytes] = bytes) -> bytes:
    """Return an RPM with these members; its signature has an odd size, so that it is padded."""
    archive = b"".join([*members, member("TRAILER!!!", 0, b"")])
    signature = header(1, b"abc")
    return LEAD + signature + bytes(-(len(LEAD) + len(signature)) % 8) + header(2, b"words") + compress(archive)


def members_below(root: Path, place: str) -> Iterable[bytes]:
    """Yield the files, directories and symbolic links of `root` as members below `place`."""
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            content = str(path.readlink()).encode() if path.is_symlink() else b""
            if stat.S_ISREG(mode):
                content = path.read_bytes()
            yield member(f"./{place}/{path.relative_to(root)}", mode, content)
