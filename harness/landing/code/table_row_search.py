"""Finds tables without symbols in a kernel's image, as runs of rows that fit a form.

Bytes that fit by chance are recognized because their neighbors do not fit.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

# Returns True if the row at this link address, with these fields, fits.
Fits = Callable[[int, tuple[int, ...]], bool]


class RowRange(NamedTuple):
    """A table, or a part of one: the link address of its first row, and the address after its last row."""

    start: int
    end: int


@dataclass(frozen=True)
class RowSearch:
    """Searches an image, whose first byte is linked at `base`, from the link address `begin` on.

    Fewer than `least` consecutive rows are not a table.
    """

    image: bytes
    base: int
    begin: int
    least: int

    def find(self, row: struct.Struct, fits: Fits) -> list[RowRange]:
        """Return every run of rows that fit. One row in each `least` / 2 is tried.

        Rows begin at a multiple of four bytes, or at any byte if their size is odd.
        """
        found = []
        begin = self.begin - self.base
        for phase in range(0, row.size, math.gcd(row.size, 4)):
            place = begin + phase
            while place + row.size <= len(self.image):
                if self._fits(row, fits, place):
                    start, end = self._run(row, fits, place)
                    if end - start >= self.least * row.size:
                        found.append(RowRange(self.base + start, self.base + end))
                    place = end - row.size
                place += row.size * (self.least // 2)
        return found

    def _run(self, row: struct.Struct, fits: Fits, place: int) -> tuple[int, int]:
        """Return the start and the end of the run around a row that fits."""
        start, end = place, place + row.size
        while self._fits(row, fits, start - row.size):
            start -= row.size
        while self._fits(row, fits, end):
            end += row.size
        return start, end

    def _fits(self, row: struct.Struct, fits: Fits, place: int) -> bool:
        inside = 0 <= place <= len(self.image) - row.size
        return inside and fits(self.base + place, row.unpack_from(self.image, place))


def longest_run_of_pointers(
    image: bytes, pointer: struct.Struct, begin: int, address: int, is_wanted: Callable[[int], bool]
) -> list[int]:
    """Return the longest run of adjacent pointers that are all wanted, where one is this address; often none.

    It is searched from the place `begin` of the image on; pointers are at multiples of their size.
    """

    def at(place: int) -> int | None:
        inside = 0 <= place <= len(image) - pointer.size
        return int(pointer.unpack_from(image, place)[0]) if inside else None

    def run(place: int, step: int) -> list[int]:
        found = []
        while (value := at(place)) is not None and is_wanted(value):
            found.append(value)
            place += step
        return found

    wanted, longest = pointer.pack(address), list[int]()
    place = image.find(wanted, begin)
    while place >= 0:
        if place % pointer.size == 0:
            before = run(place - pointer.size, -pointer.size)
            longest = max(longest, [*reversed(before), *run(place, pointer.size)], key=len)
        place = image.find(wanted, place + 1)
    return longest
