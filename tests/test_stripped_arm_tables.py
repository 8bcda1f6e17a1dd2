"""The patch tables of a 32-bit ARM kernel without data symbols are found among noise by the form of their rows."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import cast

from harness.core.elf import Elf, Section, Symbol
from harness.landing.code.patch_tables import ARM_PHYSICAL, ARM_PROCESSORS, FTRACE, JUMPS
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.code.stripped_arm_tables import ArmTableFinder
from harness.landing.code.table_row_search import RowRange

TEXT = 0xC0300000
SITES = 300
PUSH_LR, BL, NOP, B = 0xE52DE004, 0xEB000000, 0xE320F000, 0xEA000004
ADD_HIGH, ADD_LOW, PLD, PLD_REGISTER = 0xE2800481, 0xE2800881, 0xF5D3F000, 0xF7D3F002


@dataclass
class Kernel:
    """The part of an ELF file that the search reads: text, then data with the tables."""

    image: bytes
    text_size: int
    machine: str = "EM_ARM"
    extra: dict[str, int] = field(default_factory=dict)

    @property
    def sections_by_name(self) -> dict[str, Section]:
        start = TEXT + self.text_size
        return {".data": Section(".data", start, 0, len(self.image) - self.text_size, False, True, True, 1)}

    def bytes_at(self, address: int, size: int) -> bytes:
        return self.image[address - TEXT : address - TEXT + size]

    def symbols_named(self, name: str) -> list[Symbol]:
        end = TEXT + self.text_size
        known = {"_stext": TEXT, "_etext": end, "_sinittext": end, "_einittext": end} | self.extra
        return [Symbol(name, known[name], 0, ".text", "func", "global")] if name in known else []


def kernel() -> tuple[Kernel, dict[str, RowRange], list[int]]:
    """Return a kernel, where its tables are, and the addresses of its list of pointers."""
    noise = random.Random(7)
    words: list[int] = []
    for number in range(SITES):
        words += [PUSH_LR, BL, ADD_HIGH, ADD_LOW, (NOP, B)[number % 2], PLD, 0xE0811002, 0xE12FFF1E]
    text = struct.pack(f"<{len(words)}I", *words)
    image, found = bytearray(text), {}

    def add(name: str, rows: list[bytes]) -> None:
        image.extend(noise.randbytes(1024) + bytes(16))
        start = TEXT + len(image)
        image.extend(b"".join(rows) + bytes(16))
        found[name] = RowRange(start, start + sum(map(len, rows)))

    functions = [TEXT + 32 * number for number in range(SITES)]
    place = TEXT + len(image) + 1040
    add(JUMPS, [struct.pack("<III", start + 16, start + 28, 0xC1500000) for start in functions])
    place = TEXT + len(image) + 1040
    rows = [
        struct.pack("<iI", start + 20 - place - 8 * number, (PLD, PLD_REGISTER, NOP)[number % 3])
        for number, start in enumerate(functions)
    ]
    add(ARM_PROCESSORS, rows)
    place = TEXT + len(image) + 1040
    pairs = [start + offset for start in functions for offset in (8, 12)]
    add(ARM_PHYSICAL, [struct.pack("<i", at - place - 4 * number) for number, at in enumerate(pairs)])
    add(FTRACE, [struct.pack("<I", start + 4) for start in functions])
    pointers = functions[3:40:2]
    add("pointers", [struct.pack("<I", start) for start in pointers])
    return Kernel(bytes(image), len(text)), found, pointers


def test_each_table_is_found() -> None:
    elf, tables, pointers = kernel()
    finder = select_table_finder(cast(Elf, elf))
    assert isinstance(finder, ArmTableFinder)
    for name in (JUMPS, ARM_PROCESSORS, ARM_PHYSICAL, FTRACE):
        assert finder.find_row_ranges_of_table(name) == [tables[name]], name
    assert finder.adjacent_pointers_including(pointers[5]) == pointers
    assert finder.adjacent_pointers_including(TEXT + 0x28) == []


def test_a_kernel_without_tables_has_none() -> None:
    elf, _, _ = kernel()
    finder = ArmTableFinder(cast(Elf, Kernel(elf.image[: elf.text_size] + bytes(4096), elf.text_size)))
    for name in (JUMPS, ARM_PROCESSORS, ARM_PHYSICAL, FTRACE):
        assert finder.find_row_ranges_of_table(name) == []


def test_a_kernel_with_symbols_needs_no_search() -> None:
    elf, _, _ = kernel()
    elf.extra[ARM_PHYSICAL] = TEXT
    assert select_table_finder(cast(Elf, elf)) is None
