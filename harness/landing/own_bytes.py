"""The ELF file's own bytes around a site, with which guest memory is compared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from harness.core.elf import Elf
from harness.landing.code.patch_sites import LINKED, patch_sites
from harness.landing.layout import Layout
from harness.landing.site import Site

# The fewest bytes whose comparison proves anything: one instruction of an architecture of fixed width.
FEWEST = 4
_MOVED_FIELD = 4


@dataclass(frozen=True)
class OwnBytes:
    """The bytes that an ELF file has for memory from `start` on.

    `masked_offsets` holds the offsets from `start` of bytes that relocations or the kernel's patches change. `slide` is
    the number that was added to absolute addresses in a vmlinux without kept relocations; 0 if that cannot be.
    """

    start: int
    code: bytes
    masked_offsets: frozenset[int]
    slide: int = 0

    @property
    def comparable_count(self) -> int:
        """The number of bytes that can be compared with memory."""
        return len(self.code) - len(self.masked_offsets)

    def differing_offsets(self, memory: bytes, probed: Collection[int] = ()) -> list[int]:
        """Offsets from `start` at which memory differs from the file, without the `probed` offsets."""
        wrong = [
            offset
            for offset, (own, seen) in enumerate(zip(self.code, memory, strict=False))
            if own != seen and offset not in self.masked_offsets and offset not in probed
        ]
        return [offset for offset in wrong if not self._moved(memory, offset)]

    def _moved(self, memory: bytes, offset: int) -> bool:
        """True if a byte is part of a field that grew by exactly the slide.

        On x86 the field is R_X86_64_32S, the only absolute relocation in text.
        """
        return bool(self.slide) and any(
            _field(memory, first) == (_field(self.code, first) + self.slide) & 0xFFFFFFFF
            for first in range(max(0, offset - _MOVED_FIELD + 1), min(offset + 1, len(self.code) - _MOVED_FIELD + 1))
        )


def _field(content: bytes, first: int) -> int:
    return int.from_bytes(content[first : first + _MOVED_FIELD], "little")


def own_bytes_at(layout: Layout, site: Site, start: int, size: int) -> OwnBytes:
    """The own bytes for (start, size) in the guest, from the file that defines the site's symbol.

    They end where the symbol's section ends. They are empty if the section is not at that address, or if the file does
    not have the tables of what the kernel patches.
    """
    elf, symbol = layout.elf_and_symbol(site)
    if site.module:
        return module_own_bytes(elf, symbol.section, layout.targets[site.module].sections[symbol.section], start, size)
    return kernel_own_bytes(elf, layout.slide, start, size)


def module_own_bytes(elf: Elf, section: str, loaded: int, start: int, size: int) -> OwnBytes:
    """A module's own bytes for (start, size); its section is loaded at `loaded`."""
    place = start - loaded
    size = max(0, min(size, elf.sections_by_name[section].size - place)) if place >= 0 else 0
    if not size:
        return OwnBytes(start, b"", frozenset())
    code = elf.section_bytes(section, place, size)
    masked = patch_sites(elf).patched_offsets(section, place, size) | elf.relocated_positions_within_range(
        section, place, size
    )
    return OwnBytes(start, code, frozenset(masked))


def kernel_own_bytes(elf: Elf, slide: int, start: int, size: int) -> OwnBytes:
    """A vmlinux's own bytes for (start, size) in a guest that runs it with this slide."""
    linked = start - slide
    holding = (each for each in elf.sections_by_name.values() if each.address <= linked < each.address + each.size)
    section = next((each for each in holding if each.executable), None)
    sites = patch_sites(elf)
    if section is None or not sites.known:
        return OwnBytes(start, b"", frozenset())
    size = min(size, section.address + section.size - linked)
    kept = elf.relocations(section.name)
    masked = sites.patched_offsets(LINKED, linked, size)
    masked |= elf.relocated_positions_within_range(section.name, linked - section.address, size)
    return OwnBytes(start, elf.bytes_at(linked, size), frozenset(masked), 0 if kept else slide & 0xFFFFFFFF)
