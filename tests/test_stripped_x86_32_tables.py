"""The patch tables of a 32-bit x86 kernel without data symbols are found by their sections and by the form of rows."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import cast

import pytest

from harness.core.elf import Elf, Section, Symbol
from harness.landing.code.patch_tables import ALTERNATIVES, FTRACE, JUMPS
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.code.stripped_x86_32_tables import X86TableFinder
from harness.landing.code.table_row_search import RowRange

TEXT, RODATA, INIT, ALT = 0xC1000000, 0xC1800000, 0xC1900000, 0xC1A00000
FENTRY = TEXT + 0x10
SITES = 400
NOP, NEAR, SHORT = bytes.fromhex("3e8d742600"), b"\xe9\x10\0\0\0", b"\xeb\x30\x90\x90\x90"


@dataclass
class Kernel:
    """The part of an ELF file that the search reads."""

    content: dict[str, tuple[int, bytes]]
    machine: str = "EM_386"
    symbols: dict[str, int] = field(default_factory=lambda: {"__fentry__": FENTRY})

    @property
    def sections_by_name(self) -> dict[str, Section]:
        return {
            name: Section(name, address, 0, len(content), name == ".text", True, True, 1)
            for name, (address, content) in self.content.items()
        }

    def section_bytes(self, name: str, offset: int, size: int) -> bytes:
        return self.content[name][1][offset : offset + size]

    def symbols_named(self, name: str) -> list[Symbol]:
        found = self.symbols.get(name)
        return [Symbol(name, found, 0, ".text", "func", "global")] if found else []


def kernel(sites: int = SITES) -> tuple[Kernel, dict[str, RowRange]]:
    """Return text with traced functions and jump labels, and tables among noise."""
    noise = random.Random(7)
    text = bytearray(0x100)
    traced, labels = [], []
    for number in range(sites):
        traced.append(TEXT + len(text))
        text += b"\xe8" + struct.pack("<i", FENTRY - (TEXT + len(text) + 5))
        labels.append(TEXT + len(text))
        text += (NOP, NEAR, SHORT)[number % 3] + b"\x90" * 6
    before, after = noise.randbytes(1024), noise.randbytes(1024)
    start = RODATA + len(before)
    jumps = b"".join(
        struct.pack("<iii", place - here, traced[0] - here - 4, 0x1000)
        for here, place in ((start + 12 * number, place) for number, place in enumerate(labels))
    )
    content = {
        ".text": (TEXT, bytes(text)),
        ".rodata": (RODATA, before + jumps + after),
        ".init.data": (INIT, before + struct.pack(f"<{sites}I", *traced) + after),
        ".altinstructions": (ALT, bytes(24)),
    }
    found = {
        JUMPS: RowRange(start, start + len(jumps)),
        FTRACE: RowRange(INIT + 1024, INIT + 1024 + 4 * sites),
        ALTERNATIVES: RowRange(ALT, ALT + 24),
    }
    return Kernel(content), found


@pytest.mark.parametrize("table", [JUMPS, FTRACE, ALTERNATIVES])
def test_each_table_is_found_whole(table: str) -> None:
    made, expected = kernel()
    assert X86TableFinder(cast(Elf, made)).find_row_ranges_of_table(table) == [expected[table]]


@pytest.mark.parametrize("table", [JUMPS, FTRACE])
def test_few_rows_are_not_a_table(table: str) -> None:
    made, _ = kernel(200)
    assert X86TableFinder(cast(Elf, made)).find_row_ranges_of_table(table) == []


def test_a_call_of_another_function_is_no_ftrace_site() -> None:
    made, _ = kernel()
    made.symbols["__fentry__"] += 1
    assert X86TableFinder(cast(Elf, made)).find_row_ranges_of_table(FTRACE) == []


def test_a_kernel_with_symbols_needs_no_search() -> None:
    made, _ = kernel()
    assert isinstance(select_table_finder(cast(Elf, made)), X86TableFinder)
    made.symbols[ALTERNATIVES] = ALT
    assert select_table_finder(cast(Elf, made)) is None
