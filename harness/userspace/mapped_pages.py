"""Reads the pages of a file that processes have mapped: inside the guest, and from outside through QEMU."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.images.user_targets import PAGES
from harness.userspace.user_file import UserFile

# /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst, 6.1).
_PRESENT, _OF_FILE = 1 << 63, 1 << 61
_FRAME = (1 << 55) - 1
# Of the kernels of all architectures (CONFIG_PAGE_SHIFT). A guest could print any number.
_PAGE_SIZES = (1 << 12, 1 << 13, 1 << 14, 1 << 16)


@dataclass(frozen=True)
class Mapping:
    """One mapping of a file by a process: addresses from `start` to `end` map the file from `offset` on."""

    pid: int
    start: int
    end: int
    offset: int
    permissions: str

    def file_offset(self, address: int) -> int:
        """The offset into the file that is mapped at an address of the process."""
        return address - self.start + self.offset


@dataclass(frozen=True)
class Page:
    """One page of a mapping.

    `offset` is its position in the file. `bytes_inside` holds its bytes from /proc/PID/mem, empty when they could not
    be read. `bytes_outside` holds its bytes from physical memory, read through QEMU, empty when the page is not
    present. `frame_number` is its page frame number. `is_private_copy` is true for a private copy of the process, false
    for a page of the page cache.
    """

    pid: int
    address: int
    offset: int
    frame_number: int
    is_private_copy: bool
    bytes_inside: bytes
    bytes_outside: bytes


@dataclass(frozen=True)
class FileView:
    """The mappings and pages of one file in some processes at one moment.

    `file_identity` is the file's device and inode, `DEV:INODE`.
    """

    file_identity: str
    mappings: Sequence[Mapping]
    pages: Sequence[Page]

    def mapping_of_page(self, page: Page) -> Mapping:
        """The mapping that a page of this view is in."""
        return next(each for each in self.mappings if each.pid == page.pid and each.start <= page.address < each.end)

    def file_offset(self, address: int) -> int | None:
        """The offset into the file that is mapped at an address, or None if the file is not mapped there."""
        for mapping in self.mappings:
            if mapping.start <= address < mapping.end:
                return mapping.file_offset(address)
        return None


@parsing_guest_text("the list of a file's mapped pages")
def read_file_view(
    guest: Guest,
    file: UserFile,
    pids: Iterable[int],
    offsets: Iterable[int],
    identity: str = "",
    *,
    data_too: bool = False,
) -> FileView:
    """Read the pages around offsets of a file in some processes, both inside the guest and from outside.

    `identity` identifies a file that no longer has a name. Pages of writable mappings are left out, because a program
    may change them itself. With `data_too` they are read, and so are mappings that are not executable.

    Raises GuestError when a process is gone, and for a page that is readable and present but cannot be read there.
    """
    wanted = ",".join(f"{offset:#x}" for offset in sorted(set(offsets)))
    mark = "=" if data_too else ":"
    words = [guest.copy_program(PAGES), identity or file.guest_path, *(f"{pid}{mark}{wanted}" for pid in pids)]
    listing = guest.run_script(shlex.join(words), in_place=True).check().stdout
    mappings: list[Mapping] = []
    pages: list[Page] = []
    size = 0
    for line in listing.splitlines():
        kind, *words = line.split()
        fields = dict(word.split("=", 1) for word in words)
        if kind == "file":
            identity, size = f"{fields['device']}:{fields['inode']}", int(fields["page"])
            if size not in _PAGE_SIZES:
                raise ValueError(f"a page has {size} bytes")
        elif kind == "map":
            pid, start, end, offset = (int(fields[name], 0) for name in ("pid", "start", "end", "offset"))
            mappings.append(Mapping(pid, start, end, offset, fields["perms"]))
        # The dynamic linker writes SPARC's procedure linkage table, which is code: its page is always a private copy.
        elif data_too or "w" not in mappings[-1].permissions:
            page = _page(guest, fields, size)
            if "r" in mappings[-1].permissions and page.bytes_outside and not page.bytes_inside:
                raise GuestError(f"pid {page.pid}: /proc/PID/mem cannot be read at {page.address:#x}", where=guest.name)
            pages.append(page)
    return FileView(identity, mappings, pages)


def _page(guest: Guest, fields: dict[str, str], size: int) -> Page:
    entry = int(fields["pagemap"], 16)
    frame = entry & _FRAME
    present = bool(entry & _PRESENT)
    return Page(
        pid=int(fields["pid"]),
        address=int(fields["address"], 16),
        offset=int(fields["offset"], 16),
        frame_number=frame,
        is_private_copy=present and not entry & _OF_FILE,
        bytes_inside=bytes.fromhex(fields["bytes"]),
        bytes_outside=guest.memory.read_physical(frame * size, size) if present else b"",
    )
