"""The files of a MIPS kernel: its vmlinuz, its patch tables without symbols, modules' relocations, its page tables."""

from __future__ import annotations

import lzma
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from harness.core.architecture import AddressTranslation, DecoderKind
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf, Section, Symbol
from harness.core.elf_symbols_and_relocations import ElfFormat, relocations
from harness.core.errors import BuildError, UnmappedError
from harness.guest.mips_page_table_walk import SHAPES, MipsPageTables
from harness.guest.page_table_memory import PageTableMemory
from harness.images import embedded_kernel, mips_vmlinuz
from harness.landing.code import mips_ftrace_site
from harness.landing.code.decode_mips import decode
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import (
    decode_function,
    first_accepted_offset,
    ftrace_site_offset,
    without_branches_that_end_probing,
)
from harness.landing.code.patch_sites import FtraceSites, Range
from harness.landing.code.patch_tables import FTRACE, JUMPS, patch_tables_of
from harness.landing.code.select_stripped_table_finder import select_table_finder
from harness.landing.code.stripped_mips_tables import MipsTableFinder
from harness.landing.code.table_row_search import RowRange
from harness.landing.sites.reserved import Reserved

BASE = 0xFFFFFFFF80100000
MOVE, JAL, NOP, BRANCH, JR_RA, LUI, DADDIU, JALR = (
    *(0x03E00825, 0x0C045BC8, 0, 0x10000001, 0x03E00008),
    *(0x3C038012, 0x64638AA0, 0x0060F809),
)
# kernel_entry: lui t4; daddiu t4; sd; lui t5; daddiu t5; daddiu t4; sd; bne.
CLEARS = (0x3C0C8126, 0x658C0000, 0xFD800000, 0x3C0D812D, 0x65AD80F8, 0x658C0008, 0xFD800000, 0x158DFFFD)
HEADER = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x08\x00"


def packed(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def test_the_kernel_in_a_vmlinuz_is_the_one_that_clears_its_bss() -> None:
    content = random.Random(3).randbytes(0x400) + packed(*CLEARS) + bytes(0x100)
    # The decompressor has the magic number among its constants.
    image = HEADER + embedded_kernel.XZ_MAGIC + bytes(100) + lzma.compress(content, check=lzma.CHECK_CRC32) + bytes(64)
    assert mips_vmlinuz.is_vmlinuz(image)
    found = mips_vmlinuz.unpack(image, "vmlinuz")
    assert (found.content, hex(found.bss_start), hex(found.bss_end)) == (
        content,
        "0xffffffff81260000",
        "0xffffffff812c8100",
    )


def test_any_other_file_is_no_vmlinuz() -> None:
    assert not mips_vmlinuz.is_vmlinuz(HEADER)
    assert not mips_vmlinuz.is_vmlinuz(HEADER.replace(b"\x08\x00", b"\x3e\x00") + embedded_kernel.XZ_MAGIC)
    assert not mips_vmlinuz.is_vmlinuz(b"")
    with pytest.raises(BuildError, match="no kernel compressed with xz"):
        mips_vmlinuz.unpack(HEADER + lzma.compress(bytes(100), check=lzma.CHECK_CRC32), "vmlinuz")


@dataclass
class Kernel:
    """The part of an ELF file that the search reads: text, then data with the tables."""

    image: bytes
    text_size: int
    machine: str = "EM_MIPS"
    struct_order: str = "<"

    @property
    def sections_by_name(self) -> dict[str, Section]:
        start = BASE + self.text_size
        return {".data": Section(".data", start, 0, len(self.image) - self.text_size, False, True, True, 1)}

    def bytes_at(self, address: int, size: int) -> bytes:
        return self.image[address - BASE : address - BASE + size]

    def symbols_named(self, name: str) -> list[Symbol]:
        end = BASE + self.text_size
        known = {"_stext": BASE, "_etext": end, "_sinittext": end, "_einittext": end}
        return [Symbol(name, known[name], 0, ".text", "func", "global")] if name in known else []


def test_tables_are_found_by_the_form_of_their_rows() -> None:
    noise = random.Random(7)
    words = [(MOVE, JAL, NOP, (BRANCH, 0x08040004)[number % 2], NOP, JR_RA, NOP, NOP) for number in range(300)]
    text = packed(*(word for function in words for word in function))
    starts = [BASE + 32 * number for number in range(300)]
    jumps = b"".join(struct.pack("<3Q", start + 12, start + 20, 0xFFFFFFFF81000000) for start in starts)
    traced = b"".join(struct.pack("<Q", start + 4) for start in starts)
    image = text + noise.randbytes(1024) + bytes(16)
    places = {JUMPS: RowRange(BASE + len(image), BASE + len(image) + len(jumps))}
    image += jumps + bytes(16) + noise.randbytes(1024)
    image += bytes(-len(image) % 8)
    places[FTRACE] = RowRange(BASE + len(image), BASE + len(image) + len(traced))
    image += traced + bytes(16)
    image += struct.pack("<3Q", 1, starts[1], starts[2]) + bytes(8)
    elf = cast(Elf, Kernel(image, len(text)))
    finder = select_table_finder(elf)
    assert isinstance(finder, MipsTableFinder)
    for table, place in places.items():
        assert finder.find_row_ranges_of_table(table) == [place]
    assert finder.adjacent_pointers_including(starts[2]) == [starts[1], starts[2]]
    assert finder.adjacent_pointers_including(BASE + 0x40000000) == []


class KernelWithBlacklist(Kernel):
    """A kernel of four functions, the third of which is get_kprobe, and a list of pointers to the last two."""

    def symbols_named(self, name: str) -> list[Symbol]:
        if name == "get_kprobe":
            return [Symbol(name, BASE + 16, 8, ".text", "func", "global")]
        return super().symbols_named(name)


def test_sites_finds_the_blacklist_by_its_pointer_to_get_kprobe() -> None:
    text = packed(*(JR_RA, NOP) * 4)
    image = text + struct.pack("<5Q", 1, BASE + 16, BASE + 24, 0, BASE + 16)
    kernel = cast(Elf, KernelWithBlacklist(image, len(text)))
    reserved = Reserved(kernel, {}, ARCHITECTURES["mips64el"].kprobe_traits)
    assert reserved.blacklist_found_in_file
    assert reserved._listed == [BASE + 16, BASE + 24]


def test_the_type_of_a_64_bit_relocation_is_its_last_byte() -> None:
    symbols = [Symbol(name, 0, 0, ".text", "func", "global") for name in ("", "f", "g")]
    for order, little in (("<", True), (">", False)):
        table = struct.pack(f"{order}QIBBBBq", 0x10, 2, 0, 0, 0, 18, -8)
        (found,) = relocations(ElfFormat(8, little), table, addends=True, base=0, symbols=symbols, machine="EM_MIPS")
        assert (found.offset, found.type, found.symbol.name, found.addend) == (0x10, 18, "g", -8)
    table = struct.pack(">II", 0x10, 2 << 8 | 5)
    (found,) = relocations(ElfFormat(4, False), table, addends=False, base=0, symbols=symbols, machine="EM_MIPS")
    assert (found.offset, found.type, found.symbol.name, found.addend) == (0x10, 5, "g", 0)


@dataclass
class File:
    """The part of an ELF file that the decoders read: one function."""

    code: bytes
    linked: bool
    path: Path = Path("file")

    def function_bytes(self, _: Symbol) -> bytes:
        return self.code

    def symbols_named(self, name: str) -> list[str]:
        return [name]

    def offset_in_section(self, symbol: Symbol) -> int:
        return symbol.address

    def relocated_positions_within_range(self, *_: object) -> set[int]:
        return set()

    def relocations(self, _: str) -> list[object]:
        return []


@pytest.mark.parametrize(
    ("linked", "words", "site", "accepted", "flows"),
    [
        # The kernel's `jal` becomes a nop, so that its delay slot is an instruction like any other.
        (True, (MOVE, JAL, MOVE, JR_RA, NOP), 4, 0, "plain refused plain ends refused"),
        # A module's function without a prologue begins with ftrace's code.
        (
            False,
            (LUI, DADDIU, MOVE, JALR, NOP, MOVE, JR_RA, NOP),
            0,
            20,
            "refused refused jumped-over jumped-over refused plain ends refused",
        ),
        (
            False,
            (MOVE, LUI, DADDIU, MOVE, JALR, NOP, JR_RA, NOP),
            4,
            0,
            "plain refused refused jumped-over jumped-over refused ends refused",
        ),
        (False, (MOVE, JR_RA, NOP), None, 0, "plain ends refused"),
    ],
)
def test_ftrace_code_is_refused_or_jumped_over(
    monkeypatch: pytest.MonkeyPatch, linked: bool, words: tuple[int, ...], site: int | None, accepted: int, flows: str
) -> None:
    place = "" if linked else ".text"
    sites = {} if site is None else {place: [Range(0x1000 + site, 0x1004 + site)]}
    monkeypatch.setattr(mips_ftrace_site, "ftrace_sites", lambda _: FtraceSites(sites))
    elf = cast(Elf, File(packed(*words), linked))
    symbol = Symbol("f", 0x1000, 4 * len(words), ".text", "func", "global")
    kind = DecoderKind.MIPS_LITTLE
    assert [each.flow.value for each in decode_function(elf, symbol, kind)] == flows.split()
    assert ftrace_site_offset(elf, symbol, kind) == site
    assert first_accepted_offset(elf, symbol, kind) == accepted
    assert Flow.JUMPED_OVER not in {each.flow for each in decode(elf.function_bytes(symbol), "<")}


def test_a_nop_in_the_last_delay_slot_is_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mips_ftrace_site, "ftrace_sites", lambda _: FtraceSites({}))
    elf = cast(Elf, File(packed(MOVE, JR_RA, NOP, NOP, NOP), True))
    symbol = Symbol("f", 0x1000, 20, "", "func", "global", size_includes_padding=True)
    assert [each.offset for each in decode_function(elf, symbol, DecoderKind.MIPS_LITTLE)] == [0, 4, 8]


def test_a_branch_before_a_nop_ends_probing() -> None:
    code = decode(packed(MOVE, JAL, NOP, JAL, MOVE, JR_RA, NOP), "<")
    for architecture, offsets in (("mips64el", [0, 8, 12, 16, 24]), ("parisc", [each.offset for each in code])):
        kprobes = ARCHITECTURES[architecture].kprobe_traits
        assert [each.offset for each in without_branches_that_end_probing(code, kprobes)] == offsets


DIRECTORY, MIDDLE, LOWER, INVALID, PAGE = 0x1260000, 0x2000000, 0x90003000, 0x5000, 0x94567000
MODULE = 0xFFFFFFFFC00704D4


def physical(address: int, size: int) -> bytes:
    """Physical memory with page tables in which one page of modules is mapped."""
    entries = {
        DIRECTORY + 8 * (MODULE >> 30 & 1023): 0x9800000000000000 | MIDDLE,
        MIDDLE + 8 * (MODULE >> 21 & 511): 0x9800000000000000 | LOWER,
        LOWER + 8 * (MODULE >> 12 & 511): PAGE >> 12 << 14 | 0x600,
    }
    if address == INVALID:
        return bytes(size)
    # The directory has two pages.
    if address not in (DIRECTORY, DIRECTORY + 0x1000, MIDDLE, LOWER):
        return f"{address:#x}+{size}".encode()
    default = 0 if address == LOWER else 0xFFFFFFFF80000000 | INVALID
    table = [entries.get(place, default) for place in range(address, address + size, 8)]
    return struct.pack(f"<{len(table)}Q", *table)


def memory_by_tables() -> PageTableMemory:
    shape = SHAPES[AddressTranslation.MIPS64_TABLES]
    return PageTableMemory(MipsPageTables(shape, 0xFFFFFFFF80000000 | DIRECTORY), physical)


def test_mips_memory_is_linear_or_goes_through_the_tables() -> None:
    memory = memory_by_tables()
    assert memory.physical_address(0xFFFFFFFF80100400) == 0x100400
    assert memory.physical_address(0xFFFFFFFFA0100400) == 0x100400
    assert memory.physical_address(0x9800000090001000) == 0x90001000
    assert memory.read_span((0xFFFFFFFF80100400, 16)) == b"0x100400+16"
    assert memory.physical_address(MODULE) == PAGE + 0x4D4
    assert memory.read_span((MODULE, 8)) == f"{PAGE + 0x4D4:#x}+8".encode()


@pytest.mark.parametrize("address", [MODULE + 0x1000, MODULE + 0x200000, 0x10000])
def test_mips_unmapped_memory_is_an_error(address: int) -> None:
    with pytest.raises(UnmappedError, match="no page"):
        memory_by_tables().physical_address(address)


MODULE_32, MIDDLE_32, PAGE_32 = 0xC00704D4, 0x2000000, 0x4567000


def physical_32(address: int, size: int) -> bytes:
    """Physical memory with the two levels of a big-endian 32-bit kernel."""
    entries = {
        DIRECTORY + 4 * (MODULE_32 >> 22): 0x80000000 | MIDDLE_32,
        MIDDLE_32 + 4 * (MODULE_32 >> 12 & 1023): PAGE_32 | 0xE80,
    }
    if address not in (DIRECTORY, MIDDLE_32, INVALID):
        return f"{address:#x}+{size}".encode()
    default = 0x80000000 | INVALID if address == DIRECTORY else 0x40
    table = [entries.get(place, default) for place in range(address, address + size, 4)]
    return struct.pack(f">{len(table)}I", *table)


def test_32_bit_memory_is_linear_or_goes_through_two_levels() -> None:
    tables = MipsPageTables(SHAPES[AddressTranslation.MIPS32_TABLES], 0x80000000 | DIRECTORY)
    memory = PageTableMemory(tables, physical_32)
    assert memory.physical_address(0x80100400) == memory.physical_address(0xA0100400) == 0x100400
    assert memory.physical_address(MODULE_32) == PAGE_32 + 0x4D4
    assert memory.read_span((MODULE_32, 8)) == f"{PAGE_32 + 0x4D4:#x}+8".encode()
    for address in (MODULE_32 + 0x1000, MODULE_32 + 0x400000, 0x10000):
        with pytest.raises(UnmappedError, match="no page"):
            memory.physical_address(address)


def test_ftrace_patches_the_delay_slot_of_a_32_bit_kernel_too() -> None:
    for word_bytes, size in ((4, 8), (8, 4)):
        (table,) = [each for each in patch_tables_of("EM_MIPS", word_bytes).tables if each.begin_symbol == FTRACE]
        assert table.patch_size((0,), bytes) == size
