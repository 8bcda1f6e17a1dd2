"""Why a kernel refuses a probe at a function's entry: every reason is one that its source documents.

docs/sweeps.md has them with file and line. Each is looked up where the kernel itself looks: its blacklist, its tables
of jump labels, static calls and BUGs, the instruction in memory.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from functools import cached_property

from harness.core.errors import PinpointError
from harness.landing.layout import Layout
from harness.landing.order import blacklist
from harness.landing.site import Site

# Tables whose entries begin with the address of a piece of code, relative to the entry itself, by the symbols that
# stand at their start and end: struct jump_entry (CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE), struct static_call_site,
# struct bug_entry (CONFIG_GENERIC_BUG_RELATIVE_POINTERS); 6.1.
_TABLES: Mapping[str, tuple[str, str]] = {
    "jump label": ("__start___jump_table", "__stop___jump_table"),
    "static call": ("__start_static_call_sites", "__stop_static_call_sites"),
    "BUG or WARN": ("__start___bug_table", "__stop___bug_table"),
}
_PREAMBLES = ("__cfi_", "__pfx_")


class Refusals:
    """Explains what one guest's kernel refuses."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._traits = layout.guest.image.recipe.architecture.probing

    def reason(self, site: Site, address: int, number: int) -> str:
        """The documented reason for refusing a probe at an address with this errno, "" when there is none."""
        if number != errno.EINVAL:
            return ""
        return next((reason for reason, holds in self._reasons(site, address) if holds), "")

    def _reasons(self, site: Site, address: int) -> Iterator[tuple[str, bool]]:
        yield "blacklisted", self._blacklisted(address)
        yield "part of a blacklisted function", self._base_blacklisted(site)
        yield "preamble of a function", site.symbol.startswith(_PREAMBLES)
        for name, places in self._tables.items():
            yield name, address in places
        yield "begins with a breakpoint", self._trap_at(address)

    def _blacklisted(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._ranges)

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        return blacklist(self.layout.guest)

    def _base_blacklisted(self, site: Site) -> bool:
        """`f.cold`, `f.part.0` and their kin share the fate of `f` (within_kprobe_blacklist())."""
        base, dot, _ = site.symbol.partition(".")
        found = self.layout.kernel.named(base) if dot else []
        return any(self._blacklisted(symbol.address + self.layout.slide) for symbol in found)

    @cached_property
    def _tables(self) -> Mapping[str, frozenset[int]]:
        return {name: frozenset(self._places(*borders)) for name, borders in _TABLES.items()}

    def _places(self, first: str, last: str) -> Iterator[int]:
        """Addresses of code that the entries of a table begin with."""
        kernel = self.layout.kernel
        start, end = (kernel.named(name) for name in (first, last))
        size = self._entry_size(first)
        if not start or not end or not size:
            return
        order = "<" if kernel.little_endian else ">"
        content = kernel.bytes_at(start[0].address, end[0].address - start[0].address)
        for place in range(0, len(content) - size + 1, size):
            distance = struct.unpack_from(f"{order}i", content, place)[0]
            yield start[0].address + place + distance + self.layout.slide

    def _entry_size(self, table: str) -> int:
        word = self.layout.kernel.word_bytes
        return {"__start___jump_table": 8 + word, "__start_static_call_sites": 8, "__start___bug_table": 12}[table]

    def _trap_at(self, address: int) -> bool:
        """A breakpoint that is the kernel's own code, as in a retpoline that boot has overwritten."""
        try:
            found = self.layout.guest.memory.read(address, len(self._traits.breakpoint))
        except PinpointError:
            return False
        return found == self._traits.breakpoint
