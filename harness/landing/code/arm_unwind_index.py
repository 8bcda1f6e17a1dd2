"""Finds ARM's unwind index in a kernel's read-only data: where functions begin, by the assembler and the linker.

A row has the distance to a function, in 31 bits, and a word that is 1 (not to be unwound), has its upper bit set (the
unwind instructions themselves), or is a distance to them (struct unwind_idx, arch/arm/include/asm/unwind.h, 6.1;
"Exception Handling ABI for the Arm Architecture", section 6). Rows are sorted by function.
"""

from __future__ import annotations

import struct

from harness.core.elf import Elf

_DATA = ".rodata"
_ROW = struct.Struct("<II")
# One row in this many is tried; fewer consecutive rows are not the index.
_STEP = 512
_CANNOT_UNWIND, _INLINE = 1, 1 << 31


def unwind_index_starts(vmlinux: Elf) -> set[int]:
    """Return the link addresses of the functions in the index; empty if the file has none."""
    if _DATA not in vmlinux.sections_by_name:
        return set()
    data = vmlinux.sections_by_name[_DATA]
    rows = _Rows(vmlinux.section_bytes(_DATA, 0, data.size), data.address, vmlinux.text_range)
    for phase in range(0, _ROW.size, 4):
        for place in range(phase, data.size - _ROW.size + 1, _STEP * _ROW.size):
            found = rows.sorted_run_around(place)
            if len(found) >= _STEP:
                return set(found)
    return set()


class _Rows:
    """The rows that bytes at an address would be."""

    def __init__(self, content: bytes, address: int, text: range) -> None:
        self._content = content
        self._address = address
        self._text = text

    def sorted_run_around(self, place: int) -> list[int]:
        """The functions of the rows around a place that fit and are sorted; empty if the row there does not fit."""
        first = self._function(place)
        if first is None:
            return []
        before, after = [first], [first]
        here = place - _ROW.size
        while (found := self._function(here)) is not None and found <= before[-1]:
            before.append(found)
            here -= _ROW.size
        here = place + _ROW.size
        while (found := self._function(here)) is not None and found >= after[-1]:
            after.append(found)
            here += _ROW.size
        return [*reversed(before[1:]), *after]

    def _function(self, place: int) -> int | None:
        """The function of the row at a place; None if it is no row."""
        if not 0 <= place <= len(self._content) - _ROW.size:
            return None
        distance, unwind = _ROW.unpack_from(self._content, place)
        if distance & _INLINE:
            return None
        start = self._address + place + _signed(distance)
        instructions = self._address + place + 4 + _signed(unwind)
        held = range(self._address, self._address + len(self._content))
        known = unwind == _CANNOT_UNWIND or unwind & _INLINE or instructions in held
        return start if known and start % 4 == 0 and start in self._text else None


def _signed(field: int) -> int:
    """The distance in the lower 31 bits."""
    distance = field & (_INLINE - 1)
    return distance - _INLINE if distance >> 30 else distance
