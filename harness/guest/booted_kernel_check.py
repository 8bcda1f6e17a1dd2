"""Check that the booted kernel is the kernel of the image."""

from __future__ import annotations

import struct

from harness.core.errors import GuestError
from harness.guest.result import Result
from harness.images.image import Image

# Prints the release on the first line, then the kernel's ELF notes from memory (kernel/ksysfs.c, notes_read(), 6.1).
IDENTITY_COMMAND = "cat /proc/sys/kernel/osrelease /sys/kernel/notes"
_GNU_BUILD_ID = (b"GNU\0", 3)


def check_booted_kernel(image: Image, answer: Result) -> None:
    """Compare the output of ASK with the image. Raises GuestError when another kernel runs."""
    release, _, notes = answer.check().out.partition(b"\n")
    named = release.decode(errors="replace")
    if named != image.release:
        raise GuestError(f"the kernel calls itself {named}, not {image.release}", where=answer.guest)
    found = build_id(notes)
    if found != image.build_id:
        raise GuestError(f"the kernel's build-id is {found or 'absent'}, not {image.build_id}", where=answer.guest)


def build_id(notes: bytes) -> str:
    """Return the GNU build-id in a kernel's notes, in hex; empty if there is none.

    A note is three words of 32 bits in the kernel's byte order (name size, content size, type), then the name and the
    content, each padded to 4 bytes (elf(5)).
    """
    for order in "<", ">":
        place = 0
        while place + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from(f"{order}3I", notes, place)
            name_at, content_at = place + 12, place + 12 + _padded(name_size)
            if (notes[name_at : name_at + name_size], kind) == _GNU_BUILD_ID:
                return notes[content_at : content_at + size].hex()
            place = content_at + _padded(size)
    return ""


def _padded(size: int) -> int:
    return size + -size % 4
