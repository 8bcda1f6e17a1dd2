"""The ORC unwind table shows where code ends; function sizes without padding come from it."""

from __future__ import annotations

import struct

import pytest

from harness.core import orc_unwind_table
from harness.core.elf_symbols_and_relocations import Section, Symbol
from harness.core.errors import PinpointError
from harness.core.orc_unwind_table import ENTRIES, IPS, OrcTable

TEXT, TABLE = 0x1000, 0x9000
KNOWN, NONE, END_OF_STACK = 0x0005, 0x0000, 0x0400
NOP3, NOP8 = b"\x0f\x1f\x00", b"\x0f\x1f\x84\0\0\0\0\0"


def section(name: str, address: int, size: int) -> Section:
    return Section(name, address, 0, size, name == ".text", allocated=True, in_file=True, alignment=16)


def table(*rows: tuple[int, int]) -> OrcTable:
    """An ORC table with one row for each address and flags."""
    ips = b"".join(struct.pack("<i", TEXT + at - TABLE - 4 * index) for index, (at, _) in enumerate(rows))
    return OrcTable.parse(ips, TABLE, b"".join(struct.pack("<hhH", 8, 0, flags) for _, flags in rows))


def function(name: str, at: int, size: int, *, guessed: bool = True) -> Symbol:
    return Symbol(name, TEXT + at, size, ".text", "func", "local", guessed)


def sized(symbol: Symbol, orc: OrcTable, code: bytes) -> tuple[int, bool]:
    found = orc_unwind_table.with_code_ends([symbol], orc, section(".text", TEXT, len(code)), code)[0]
    return found.size, found.size_includes_padding


def test_a_guessed_size_ends_where_no_stack_is_known() -> None:
    orc = table((0, KNOWN), (1, KNOWN), (13, NONE), (16, KNOWN))
    assert sized(function("first", 0, 16), orc, b"\x55" * 13 + NOP3 + b"\x55" * 16) == (13, False)


def test_the_last_row_counts_where_a_function_has_two_gaps() -> None:
    orc = table((0, KNOWN), (4, NONE), (6, KNOWN), (24, NONE))
    assert sized(function("first", 0, 32), orc, b"\x55" * 24 + NOP8) == (24, False)


@pytest.mark.parametrize("flags", [KNOWN, END_OF_STACK])
def test_a_size_is_kept_where_the_last_row_is_code(flags: int) -> None:
    assert sized(function("first", 0, 16), table((0, KNOWN), (13, flags)), b"\x55" * 13 + NOP3) == (16, True)


def test_a_size_is_kept_where_code_follows_without_a_known_stack() -> None:
    assert sized(function("entry", 0, 16), table((0, KNOWN), (13, NONE)), b"\x55" * 16) == (16, True)


def test_a_function_without_a_name_that_follows_is_not_included() -> None:
    code = b"\x55" * 13 + NOP3 + b"\x55" * 16
    assert sized(function("first", 0, 32), table((0, KNOWN), (13, NONE)), code) == (13, False)


def test_a_size_that_the_linker_wrote_is_kept() -> None:
    orc = table((0, KNOWN), (13, NONE))
    assert sized(function("first", 0, 12, guessed=False), orc, b"\x55" * 13 + NOP3) == (12, False)


def test_rows_with_a_known_stack_are_function_starts() -> None:
    assert list(table((0, KNOWN), (13, NONE), (16, END_OF_STACK)).function_starts()) == [TEXT, TEXT + 16]


def test_a_damaged_table_is_one_line() -> None:
    sections = {IPS: section(IPS, TABLE, 8), ENTRIES: section(ENTRIES, TABLE + 8, 6)}
    with pytest.raises(PinpointError, match=r"f: its ORC unwind table is damaged \(8 bytes of addresses and 6"):
        orc_unwind_table.read(sections, lambda part: bytes(part.size), "f")


def test_a_file_without_a_table_has_no_rows() -> None:
    assert orc_unwind_table.read({}, lambda part: bytes(part.size), "f") == OrcTable([], [])
