"""What processes have mapped of a file: read inside the guest, and the same pages from outside through QEMU."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.images.user_targets import PAGES
from harness.userspace.user_file import UserFile

# /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst, 6.1).
_PRESENT, _OF_FILE = 1 << 63, 1 << 61
_FRAME = (1 << 55) - 1


@dataclass(frozen=True)
class Mapping:
    """One mapping of a file by a process: addresses from `start` to `end` show the file from `offset` on."""

    pid: int
    start: int
    end: int
    offset: int
    permissions: str

    def file_offset(self, address: int) -> int:
        """The offset into the file that an address of the process shows."""
        return address - self.start + self.offset


@dataclass(frozen=True)
class Page:
    """One page of such a mapping.

    `offset` is its place in the file; `inside` its bytes by /proc/PID/mem, empty when they could not be read; `outside`
    its bytes by its physical address, read through QEMU, empty when it is not present; `frame` its number among
    physical pages; `private` is true for a copy of the process's own, false for the page cache's page.
    """

    pid: int
    address: int
    offset: int
    frame: int
    private: bool
    inside: bytes
    outside: bytes


@dataclass(frozen=True)
class View:
    """What one look at some processes saw of a file; `identity` is its device and inode, `DEV:INODE`."""

    identity: str
    mappings: Sequence[Mapping]
    pages: Sequence[Page]

    def of(self, pid: int) -> View:
        """What it saw of one process."""
        return View(
            self.identity,
            [each for each in self.mappings if each.pid == pid],
            [each for each in self.pages if each.pid == pid],
        )

    def file_offset(self, address: int) -> int | None:
        """The offset into the file of an address, None for one that shows nothing of it."""
        for mapping in self.mappings:
            if mapping.start <= address < mapping.end:
                return mapping.file_offset(address)
        return None


def look(guest: Guest, file: UserFile, pids: Iterable[int], offsets: Iterable[int], identity: str = "") -> View:
    """Read the pages around offsets of a file in some processes, inside and outside of the guest.

    `identity` names a file that has no name any more. Raises GuestError when a process is gone.
    """
    wanted = ",".join(f"{offset:#x}" for offset in sorted(set(offsets)))
    words = [guest.program(PAGES), identity or file.path, *(f"{pid}:{wanted}" for pid in pids)]
    listing = guest.script(shlex.join(words), in_place=True).check().stdout
    mappings: list[Mapping] = []
    pages: list[Page] = []
    for line in listing.splitlines():
        kind, *words = line.split()
        told = dict(word.split("=", 1) for word in words)
        if kind == "file":
            identity, size = f"{told['device']}:{told['inode']}", int(told["page"])
        elif kind == "map":
            pid, start, end, offset = (int(told[name], 0) for name in ("pid", "start", "end", "offset"))
            mappings.append(Mapping(pid, start, end, offset, told["perms"]))
        else:
            pages.append(_page(guest, told, size))
    return View(identity, mappings, pages)


def _page(guest: Guest, told: dict[str, str], size: int) -> Page:
    entry = int(told["pagemap"], 16)
    frame = entry & _FRAME
    present = bool(entry & _PRESENT)
    return Page(
        pid=int(told["pid"]),
        address=int(told["address"], 16),
        offset=int(told["offset"], 16),
        frame=frame,
        private=present and not entry & _OF_FILE,
        inside=bytes.fromhex(told["bytes"]),
        outside=guest.memory.read_physical(frame * size, size) if present else b"",
    )
