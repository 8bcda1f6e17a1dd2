"""Reads the ORC unwind table of an x86_64 kernel, which objtool writes: where functions begin and where code ends.

`.orc_unwind_ip` has a 32-bit distance for each entry, from the field to the code; `.orc_unwind` has the entry itself, 6
bytes (arch/x86/include/asm/orc_types.h, 5.10 to 7.3). An entry is valid up to the next one. Bits 0 to 3 of its last two
bytes are the base register of the stack. The value 0 is for code without a known stack: between functions, and at the
end of a stack, where an entry has a bit of its own up to 6.3 and a type of its own since 6.4.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.core.elf_symbols_and_relocations import Section, Symbol
from harness.core.errors import PinpointError

IPS, ENTRIES, TEXT = ".orc_unwind_ip", ".orc_unwind", ".text"
_IP_BYTES, _ENTRY_BYTES = 4, 6
_REGISTER = 0xF
# The bits after both registers: `type` and `end`, or `type` and `signal`; 0 only where no stack is known.
_TYPE_SHIFT = 8
_ALIGNMENT = 16
# INT3 and the NOPs that gcc, clang and the assembler put between functions.
_PADDING = re.compile(
    rb"(?:[\xcc\x90]|\x66\x90|[\x66\x2e]*\x0f\x1f"
    rb"(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5}))*"
)


class OrcTable(NamedTuple):
    """Link addresses of code, ascending, and for each whether the code from there on has a known stack."""

    addresses: list[int]
    has_stack: list[bool]

    @classmethod
    def parse(cls, ips: bytes, address: int, entries: bytes) -> OrcTable:
        """Parse both sections; `address` is the link address of the first. Raises ValueError for a damaged table."""
        if len(ips) % _IP_BYTES or len(entries) * _IP_BYTES != len(ips) * _ENTRY_BYTES:
            raise ValueError(f"{len(ips)} bytes of addresses and {len(entries)} bytes of entries")
        distances = array("i", ips)
        words = array("H", entries)[2::3]
        addresses = [address + _IP_BYTES * index + distance for index, distance in enumerate(distances)]
        return cls(addresses, [bool(word & _REGISTER or word >> _TYPE_SHIFT) for word in words])

    def function_starts(self) -> Iterator[int]:
        """The addresses at which an entry begins; a function that follows padding has one at its start."""
        return (address for address, known in zip(self.addresses, self.has_stack, strict=True) if known)

    def code_end_before(self, start: int, following: int) -> int | None:
        """The address at which the last code between two symbols ends; None if the table does not show it."""
        last = bisect_right(self.addresses, following - 1) - 1
        return self.addresses[last] if last >= 0 and self.addresses[last] > start and not self.has_stack[last] else None


def read(sections: Mapping[str, Section], content: Callable[[Section], bytes], path: str) -> OrcTable:
    """Read the table of a file; empty if it has none, or only its place. Raises PinpointError for a damaged table."""
    ips, entries = sections.get(IPS), sections.get(ENTRIES)
    if ips is None or entries is None or not (ips.in_file and entries.in_file):
        return OrcTable([], [])
    try:
        return OrcTable.parse(content(ips), ips.address, content(entries))
    except ValueError as error:
        raise PinpointError(f"its ORC unwind table is damaged ({error})", where=path) from None


def is_padding_up_to_alignment(code: bytes, start: int, end: int, address: int) -> bool:
    """True if the bytes from `start` on, up to the next multiple of 16 or to `end`, are padding.

    `start` and `end` are positions in `code`; `address` is the link address of `start`. At a multiple of 16
    all bytes up to `end` must be padding.
    """
    return _PADDING.fullmatch(code, start, min(end, start + (-address % _ALIGNMENT or end))) is not None


def with_code_ends(symbols: Sequence[Symbol], orc: OrcTable, section: Section, code: bytes) -> list[Symbol]:
    """The symbols; each function of `section` without a size of its own gets the size that the table shows.

    `code` is the content of the section. The size is kept, and includes padding, where the table does not show the end
    of the code, or where the bytes after that end are not padding: the kernel's entry code has stretches without a
    known stack.
    """

    def sized(symbol: Symbol) -> Symbol:
        if not symbol.size_includes_padding or symbol.section != section.name:
            return symbol
        following = symbol.address + symbol.size
        end = orc.code_end_before(symbol.address, following)
        if end is None:
            return symbol
        if not is_padding_up_to_alignment(code, end - section.address, following - section.address, end):
            return symbol
        return symbol._replace(size=end - symbol.address, size_includes_padding=False)

    return [sized(symbol) for symbol in symbols]
