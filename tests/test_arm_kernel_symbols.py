"""Exports and the unwind index of a flat 32-bit ARM kernel are found in its read-only data and confirm symbols."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from harness.core.elf import Elf
from harness.images import write_recovered_symbols_elf
from harness.images.kallsyms import RecoveredSymbol
from harness.images.write_recovered_symbols_elf import FlatSection, Form
from harness.landing.code.arm_unwind_index import unwind_index_starts
from harness.landing.code.exported_symbols import exported_symbols
from harness.landing.code.symbol_confirmations import EXPORTS, UNWIND, SymbolConfirmations

BASE, FUNCTIONS = 0xC0300000, 1200
TEXT_SIZE, EM_ARM = 16 * FUNCTIONS, 40
DATA = BASE + TEXT_SIZE
NAMES = ["register_kprobe", *(f"exported_{number}" for number in range(1, 50))]


def prel31(place: int, target: int) -> int:
    return (target - place) & 0x7FFFFFFF


def kernel(directory: Path, *, unwind: bool = True) -> Elf:
    noise = random.Random(5)
    data = bytearray(noise.randbytes(4096))
    if unwind:
        for number in range(FUNCTIONS):
            here = DATA + len(data)
            second = (1, 0x80B0B0B0, prel31(here + 4, DATA + 16))[number % 3]
            data += struct.pack("<II", prel31(here, BASE + 16 * number), second)
    data += noise.randbytes(1024)
    places = {}
    for name in NAMES:
        places[name] = DATA + len(data)
        data += name.encode() + b"\0"
    data += bytes(-len(data) % 4) + bytes(12)
    for number, name in enumerate(NAMES):
        data += struct.pack("<III", BASE + 16 * number, places[name], 0)
    data += bytes(64)
    symbols = [RecoveredSymbol(BASE + 16 * number, "T", name) for number, name in enumerate(NAMES)]
    end = DATA + len(data)
    symbols += [RecoveredSymbol(BASE, "T", "_stext"), RecoveredSymbol(DATA, "T", "_etext")]
    symbols += [RecoveredSymbol(end, "T", "_sinittext"), RecoveredSymbol(end + 64, "T", "_einittext")]
    sections = [
        FlatSection(".text", BASE, DATA, executable=True),
        FlatSection(".rodata", DATA, end, executable=False),
        FlatSection(".init.text", end, end + 64, executable=True),
        FlatSection(".data", end + 64, end + 128, executable=False),
    ]
    image = bytes(TEXT_SIZE) + bytes(data) + bytes(128)
    form = Form(4, little_endian=True)
    path = directory / "vmlinux"
    bare = write_recovered_symbols_elf.elf_bytes_from_flat_image(image, BASE, sections, EM_ARM, form)
    path.write_bytes(write_recovered_symbols_elf.with_symbols(bare, symbols))
    return Elf.read(path)


def test_exports_are_rows_of_addresses(tmp_path: Path) -> None:
    assert exported_symbols(kernel(tmp_path)) == {name: BASE + 16 * number for number, name in enumerate(NAMES)}


def test_the_unwind_index_has_every_function(tmp_path: Path) -> None:
    assert unwind_index_starts(kernel(tmp_path)) == {BASE + 16 * number for number in range(FUNCTIONS)}


def test_a_symbol_inside_a_function_is_not_confirmed(tmp_path: Path) -> None:
    elf = kernel(tmp_path)
    found, symbol = SymbolConfirmations(elf), elf.function("exported_7")
    assert found.sources_of(symbol) == (EXPORTS, UNWIND)
    assert found.sources_of(symbol._replace(address=symbol.address + 4)) == ()


def test_noise_is_no_unwind_index(tmp_path: Path) -> None:
    assert unwind_index_starts(kernel(tmp_path, unwind=False)) == set()
