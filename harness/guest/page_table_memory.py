"""Guest memory by virtual address, for a kernel whose page tables QEMU cannot walk: the TLB is filled in software."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

ReadPhysical = Callable[[int, int], bytes]
"""Reads physical memory: (address, size)."""
ReadTable = Callable[[int], bytes]
"""Reads the page with a table, by its physical address."""


class PageTables(Protocol):
    """The page tables of one kernel."""

    @property
    def page_bytes(self) -> int:
        """The size of a page, which is also that of a table."""

    def linear_address(self, address: int) -> int | None:
        """Return the physical address of an address that is mapped linearly without a table, None for others."""

    def page_address(self, address: int, read_table: ReadTable) -> int:
        """Return the physical address of the page of a virtual address. Raises UnmappedError when it is not mapped."""


class _Piece(NamedTuple):
    physical: int
    size: int


@dataclass(frozen=True)
class PageTableMemory:
    """Memory by virtual address; `read_physical(address, size)` reads physical memory."""

    tables: PageTables
    read_physical: ReadPhysical

    def read_span(self, span: tuple[int, int]) -> bytes:
        """Return the bytes of (address, size). Raises UnmappedError when one of its pages is not mapped."""
        address, size = span
        linear = self.tables.linear_address(address)
        if linear is not None:
            return self.read_physical(linear, size)
        return b"".join(self.read_physical(*piece) for piece in self._pieces(address, address + size))

    def physical_address(self, address: int) -> int:
        """Return the physical address of a virtual one. Raises UnmappedError when its page is not mapped."""
        linear = self.tables.linear_address(address)
        if linear is not None:
            return linear
        return self.tables.page_address(address, self._cached_tables()) + address % self.tables.page_bytes

    def _pieces(self, start: int, end: int) -> list[_Piece]:
        """Return the physical pieces of a virtual range; adjacent physical pages are joined."""
        pieces: list[_Piece] = []
        read_table, page = self._cached_tables(), self.tables.page_bytes
        while start < end:
            size = min(end, (start | page - 1) + 1) - start
            physical = self.tables.page_address(start, read_table) + start % page
            if pieces and sum(pieces[-1]) == physical:
                pieces[-1] = _Piece(pieces[-1].physical, pieces[-1].size + size)
            else:
                pieces.append(_Piece(physical, size))
            start += size
        return pieces

    def _cached_tables(self) -> ReadTable:
        """Return a reader that reads each table once."""
        read: dict[int, bytes] = {}

        def table(address: int) -> bytes:
            if address not in read:
                read[address] = self.read_physical(address, self.tables.page_bytes)
            return read[address]

        return table
