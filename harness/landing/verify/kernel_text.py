"""All text of a running kernel at one moment, read from outside: it shows changes that no list names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.landing.code.patch_sites import LINKED, patch_sites
from harness.landing.layout import Layout

_BLOCK = 4096


@dataclass(frozen=True)
class KernelTextSnapshot:
    """The bytes from `_stext` to `_etext`, the first at the address `start`."""

    start: int
    content: bytes

    @classmethod
    def read(cls, layout: Layout) -> KernelTextSnapshot:
        """Read it through QEMU: 14 MB of an x86_64 kernel of Debian's take half a second."""
        start, end = (layout.kernel.named(name)[0].address + layout.slide for name in ("_stext", "_etext"))
        return cls(start, layout.guest.memory.read(start, end - start))

    def holds(self, address: int) -> bool:
        """Is this an address of kernel text?"""
        return self.start <= address < self.start + len(self.content)

    def piece(self, start: int, size: int) -> bytes:
        """As many of `size` bytes from an address on as there are."""
        return self.content[start - self.start : start - self.start + size]

    def differing(self, other: KernelTextSnapshot) -> Iterator[int]:
        """The addresses of all bytes that differ."""
        for block in range(0, len(self.content), _BLOCK):
            ours, theirs = self.content[block : block + _BLOCK], other.content[block : block + _BLOCK]
            if ours != theirs:
                yield from (self.start + block + at for at in range(len(ours)) if ours[at] != theirs[at])


def unasked(layout: Layout, one: KernelTextSnapshot, other: KernelTextSnapshot) -> list[int]:
    """The addresses of bytes that differ between two moments, without those that the kernel itself patches."""
    sites = patch_sites(layout.kernel)
    return [place for place in one.differing(other) if not sites.within(LINKED, place - layout.slide, 1)]
