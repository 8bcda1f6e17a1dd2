"""The patch tables, exports and relocations of an s390 kernel without data symbols are found by the form of rows."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from harness.core.elf import Elf
from harness.images import write_recovered_symbols_elf
from harness.images.kallsyms import RecoveredSymbol
from harness.images.write_recovered_symbols_elf import FlatSection, Form
from harness.landing.code.exported_symbols import exported_symbols
from harness.landing.code.patch_sites import LINKED, ftrace_sites, patch_sites
from harness.landing.code.patch_tables import ALTERNATIVES, FTRACE, JUMPS
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.code.stripped_s390_tables import S390TableFinder
from harness.landing.code.table_row_search import RowRange

BASE, SITES, EM_S390 = 0x100000, 300, 22
SIZE = 32
TEXT_SIZE = SIZE * SITES
NAMES = ["register_kprobe", *(f"exported_{number}" for number in range(1, 40))]


def function(number: int) -> int:
    return BASE + SIZE * number


def text() -> bytes:
    """Functions of 32 bytes: ftrace's nop, a static key to the end, a nop that an alternative replaces, a return."""
    key = ("c004", "c0f4")
    return b"".join(
        bytes.fromhex("c00400000000" + key[number % 2] + "0000000d" + "47000000" + "07fe").ljust(SIZE, b"\x07")
        for number in range(SITES)
    )


def kernel(directory: Path, *, damaged: bool = False) -> tuple[Elf, dict[str, RowRange], list[int]]:
    """Return a kernel, where its tables are, and the addresses of a list of pointers to text."""
    noise = random.Random(9)
    content, tables, places = bytearray(text()), dict[str, RowRange](), list[int]()

    def here() -> int:
        return BASE + len(content)

    def begin() -> None:
        content.extend(noise.randbytes(200))
        content.extend(bytes(-len(content) % 8))

    def pointers(values: list[int]) -> int:
        begin()
        start = here()
        places.extend(start + 8 * index for index in range(len(values)))
        content.extend(struct.pack(f">{len(values)}Q", *values))
        return start

    begin()
    strings = {}
    for name in NAMES:
        strings[name] = here()
        content.extend(name.encode() + b"\0")
    listed = [function(number) for number in range(0, 100, 7)]
    pointers(listed)
    pointers([word for number, name in enumerate(NAMES) for word in (function(number), strings[name], 0)])
    begin()
    start = here()
    for number in range(SITES):
        site = function(number) + 6
        target = site + (26 if not damaged else 28)
        content.extend(struct.pack(">iiq", site - here(), target - here() - 4, 64))
    tables[JUMPS] = RowRange(start, here())
    start = pointers([function(number) for number in range(SITES)])
    tables[FTRACE] = RowRange(start, here())
    init = here()
    content.extend(bytes(64))
    begin()
    start = here()
    # Each replacement follows the table; it may begin at an odd address.
    replacements = start + 11 * SITES + 1
    for number in range(SITES):
        row = (function(number) + 12 - here(), replacements + 4 * number - here() - 4, 49, 4)
        content.extend(struct.pack(">iiHB", *row))
    tables[ALTERNATIVES] = RowRange(start, here())
    content.extend(bytes(4 * SITES + 64))
    content.extend(bytes(-len(content) % 8))
    relocations = here()
    for place in places:
        value = int.from_bytes(content[place - BASE : place - BASE + 8])
        content.extend(struct.pack(">QIIq", place, 0, 12, value))
    end = here()
    sections = [
        FlatSection(".text", BASE, BASE + TEXT_SIZE, executable=True),
        FlatSection(".rodata", BASE + TEXT_SIZE, init, executable=False),
        FlatSection(".init.text", init, init + 64, executable=True),
        FlatSection(".data", init + 64, end, executable=False),
        FlatSection(".rela.dyn", relocations, end, executable=False),
    ]
    borders = {"_stext": BASE, "_etext": BASE + TEXT_SIZE, "_sinittext": init, "_einittext": init + 64}
    symbols = [RecoveredSymbol(address, "T", name) for name, address in borders.items()]
    symbols += [RecoveredSymbol(function(number), "T", name) for number, name in enumerate(NAMES)]
    form = Form(8, little_endian=False)
    bare = write_recovered_symbols_elf.elf_bytes_from_flat_image(bytes(content), BASE, sections, EM_S390, form)
    path = directory / "vmlinux"
    path.write_bytes(write_recovered_symbols_elf.with_symbols(bare, symbols))
    return Elf.read(path), tables, listed


def test_each_table_is_found_where_it_is(tmp_path: Path) -> None:
    elf, tables, listed = kernel(tmp_path)
    finder = select_table_finder(elf)
    assert isinstance(finder, S390TableFinder)
    assert {name: finder.find_row_ranges_of_table(name) for name in tables} == {
        name: [rows] for name, rows in tables.items()
    }
    assert finder.adjacent_pointers_including(listed[3]) == listed
    assert finder.adjacent_pointers_including(BASE + 4) == []


def test_the_bytes_that_the_tables_name(tmp_path: Path) -> None:
    elf, _, _ = kernel(tmp_path)
    sites = patch_sites(elf)
    assert sites.known
    # ftrace's nop, the static key, the alternative; not the return.
    assert sites.patched_offsets(LINKED, function(17), SIZE) == set(range(16))
    assert [each.start for each in ftrace_sites(elf).ranges_by_place[LINKED]] == [
        function(number) for number in range(SITES)
    ]


def test_a_branch_to_another_place_is_no_row(tmp_path: Path) -> None:
    elf, _, _ = kernel(tmp_path, damaged=True)
    finder = select_table_finder(elf)
    assert finder is not None
    assert finder.find_row_ranges_of_table(JUMPS) == []


def test_exports_are_rows_of_addresses(tmp_path: Path) -> None:
    elf, _, _ = kernel(tmp_path)
    assert exported_symbols(elf) == {name: function(number) for number, name in enumerate(NAMES)}
