"""The patch tables of an arm64 kernel without data symbols are found among noise by the form of their rows."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import cast

import pytest

from harness.core.elf import Elf, Section, Symbol
from harness.landing.code.patch_tables import ALTERNATIVES, FTRACE, JUMPS
from harness.landing.code.stripped_arm64_tables import Arm64TableFinder
from harness.landing.code.table_row_search import RowRange

BASE = 0xFFFF800008000000
TEXT, INIT, DATA = BASE + 0x1000, BASE + 0x9000, BASE + 0xA000
ROWS = 300
NOP = struct.pack("<I", 0xD503201F)


@dataclass
class Image:
    """The part of an ELF file that the search reads."""

    content: bytes

    @property
    def sections_by_name(self) -> dict[str, Section]:
        end = BASE + len(self.content)
        return {
            ".head.text": Section(".head.text", BASE, 0, 0x1000, False, True, True, 1),
            ".data": Section(".data", DATA, 0, end - DATA, False, True, True, 1),
        }

    def symbols_named(self, name: str) -> list[Symbol]:
        places = {"_stext": TEXT, "_etext": INIT, "_sinittext": INIT, "_einittext": DATA}
        return [Symbol(name, places[name], 0, ".text", "notype", "global")] if name in places else []

    def bytes_at(self, address: int, size: int) -> bytes:
        return self.content[address - BASE : address - BASE + size]


def kernel(rows: int = ROWS) -> tuple[Arm64TableFinder, dict[str, RowRange]]:
    """Return text of nops, then noise, alternatives, noise, jumps, noise, and relocations of a list of pointers."""
    noise = random.Random(7)
    content = bytearray(0x1000) + NOP * ((DATA - TEXT) // 4)
    found = {}

    def here() -> int:
        return BASE + len(content)

    def row(form: str, *values: int) -> None:
        content.extend(struct.pack(form, *values))

    def pad() -> None:
        content.extend(noise.randbytes(4096))

    pad()
    start = here()
    for number in range(rows):
        row("<iiHBB", TEXT + 16 * number - here(), DATA - here() - 4, number % 70, 4, 4)
    found[ALTERNATIVES] = RowRange(start, here())
    pad()
    start = here()
    for number in range(rows):
        row("<iiq", TEXT + 8 * number - here(), TEXT + 0x40 - here() - 4, 64)
    found[JUMPS] = RowRange(start, here())
    pad()
    list_ = here()
    content.extend(bytes(8 * rows))
    found[FTRACE] = RowRange(list_, here())
    pad()
    for number in range(rows):
        row("<QQQ", list_ + 8 * number, 0x403, TEXT + 4 * number)
    for number in range(rows):
        row("<QQQ", DATA + 16 * number, 0x403, DATA)
    pad()
    return Arm64TableFinder(cast(Elf, Image(bytes(content)))), found


@pytest.mark.parametrize("table", [ALTERNATIVES, JUMPS, FTRACE])
def test_a_table_is_found_among_noise_and_to_its_ends(table: str) -> None:
    tables, found = kernel()
    assert tables.find_row_ranges_of_table(table) == [found[table]]


def test_relocations_hold_what_the_words_in_the_file_lack() -> None:
    tables, found = kernel()
    assert tables.relative[found[FTRACE].start + 8] == TEXT + 4
    assert len(tables.relative) == 2 * ROWS


@pytest.mark.parametrize("table", [ALTERNATIVES, JUMPS, FTRACE])
def test_few_rows_are_no_table(table: str) -> None:
    tables, _ = kernel(rows=20)
    assert tables.find_row_ranges_of_table(table) == []


def test_a_list_of_functions_is_not_the_table_of_their_ftrace_sites() -> None:
    """The kprobe blacklist has functions that are traced; on arm64 such a function begins with its ftrace site."""
    listed, address = kernel()[0], TEXT + 4 * 7
    assert listed.adjacent_pointers_including(address) == []
    shorter = {DATA + 8 * number: address + 16 * number for number in range(20)}
    listed.relative = {**listed.relative, **shorter}
    assert listed.adjacent_pointers_including(address) == list(shorter.values())
