"""Guest memory is read in few commands, around holes, and by the page tables of parisc, SPARC and SuperH."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from harness.core.architecture import AddressTranslation
from harness.core.errors import GuestError, UnmappedError
from harness.guest import read_guest_memory as room
from harness.guest.booted_kernel_check import build_id
from harness.guest.mips_page_table_walk import SHAPES as TABLE_SHAPES
from harness.guest.mips_page_table_walk import MipsPageTables
from harness.guest.monitor import Json, Monitor
from harness.guest.page_table_memory import PageTableMemory
from harness.guest.parisc_page_table_walk import SHAPES, PariscPageTables
from harness.guest.read_guest_memory import Memory, SharedFile
from harness.guest.sparc64_page_table_walk import Sparc64PageTables

BASE = 0xFFFFFFFF81000000
SIZE = 1 << 20
HOLE = range(BASE + 0x80000, BASE + 0x81000)


def byte_at(address: int) -> int:
    return (address * 7 + (address >> 12)) & 0xFF


class Monitored:
    """A monitor whose guest has 1 MiB with a hole; it counts commands, and refuses the first `sulk` of them."""

    def __init__(self, shared: SharedFile) -> None:
        self._shared = shared
        self.commands = 0
        self.sulk = 0

    def execute(self, command: str, **arguments: Json) -> Json:
        if command == "query-cpus-fast":
            return [{"cpu-index": 0}]
        assert command == "memsave"
        assert arguments["filename"] == f"/dev/fd/{self._shared.descriptor}"
        self.commands += 1
        start = arguments["val"] + (1 << 64)
        wanted = range(start, start + arguments["size"])
        outside = wanted.start < BASE or wanted.stop > BASE + SIZE
        in_hole = wanted.start < HOLE.stop and wanted.stop > HOLE.start
        if self.commands <= self.sulk or outside or in_hole:
            raise GuestError("Invalid addr")
        os.ftruncate(self._shared.descriptor, 0)
        os.pwrite(self._shared.descriptor, bytes(byte_at(address) for address in wanted), 0)
        return {}


@pytest.fixture
def monitored() -> Iterator[Monitored]:
    shared = SharedFile.make_empty()
    yield Monitored(shared)
    shared.close()


@pytest.fixture
def memory(monitored: Monitored, monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(room, "_USER_MODE_SECONDS", 0.1)
    return Memory("a-vm", cast(Monitor, monitored), monitored._shared, AddressTranslation.QEMU, Path("/no/vmlinux"))


def expected(address: int, size: int) -> bytes:
    return bytes(byte_at(each) for each in range(address, address + size))


def test_close_spans_take_one_command(memory: Memory, monitored: Monitored) -> None:
    spans = [(BASE + place, 16) for place in (0x300, 0x100, 0x2000, 0x100, 0x7000)]
    assert memory.read_many(spans) == [expected(*span) for span in spans]
    assert monitored.commands == 1


def test_spans_of_different_sizes_at_one_address(memory: Memory) -> None:
    spans = [(BASE, 4), (BASE, 64), (BASE + 2, 1)]
    assert memory.read_many(spans) == [expected(*span) for span in spans]


def test_far_spans_are_not_read_through(memory: Memory, monitored: Monitored) -> None:
    memory.read_many([(BASE, 8), (BASE + 0x70000, 8)])
    assert monitored.commands == 2


def test_a_hole_between_spans_costs_commands_not_bytes(memory: Memory, monitored: Monitored) -> None:
    spans = [(HOLE.start - 0x1000 * place, 32) for place in range(1, 9)]
    spans += [(HOLE.stop + 0x1000 * place, 32) for place in range(8)]
    assert memory.read_many(spans) == [expected(*span) for span in spans]
    assert monitored.commands == 3


def test_unmapped_memory_is_an_error(memory: Memory) -> None:
    with pytest.raises(UnmappedError, match=f"no memory at {HOLE.start:#x}"):
        memory.read(HOLE.start, 4)


def test_a_cpu_in_user_mode_is_asked_again(memory: Memory, monitored: Monitored) -> None:
    monitored.sulk = 5
    assert memory.read(BASE, 4) == expected(BASE, 4)
    assert monitored.commands == 6


@dataclass(frozen=True)
class Tables:
    """Where a kernel's page tables are, and the (place, value, format) of each directory entry that leads to them."""

    translation: AddressTranslation
    linear: int
    directories: tuple[tuple[int, int, str], ...]
    first_entry: int
    entry: str


PAGE = 0x5000000
TABLES = {
    "parisc": Tables(
        AddressTranslation.PARISC_TABLES,
        0x10000000,
        ((0xC00000 + 4 * (PAGE >> 22), 0xA00000, ">I"),),
        0xA00000 + 4 * (PAGE >> 12 & 0x3FF),
        ">I",
    ),
    "parisc64": Tables(
        AddressTranslation.PARISC64_TABLES,
        0x40000000,
        ((0xC00000, 0xB00000, ">I"), (0xB00000 + 4 * (PAGE >> 21), 0xA00000, ">I")),
        0xA00000 + 8 * (PAGE >> 12 & 0x1FF),
        ">Q",
    ),
}


class Parisc:
    """Physical memory of a PA-RISC machine with two module pages that are adjacent only in virtual memory."""

    physical_pages = (0x900000, 0x500000)

    def __init__(self, tables: Tables) -> None:
        self.ram = bytearray(16 << 20)
        self.reads = 0
        self.shape = tables
        for place, value, form in tables.directories:
            struct.pack_into(form, self.ram, place, value >> 8 | 0x3)
        for number, physical in enumerate(self.physical_pages):
            place = tables.first_entry + number * struct.calcsize(tables.entry)
            struct.pack_into(tables.entry, self.ram, place, physical | 0x3FF)
            self.ram[physical : physical + 0x1000] = bytes([number + 1]) * 0x1000

    def physical(self, address: int, size: int) -> bytes:
        self.reads += 1
        return bytes(self.ram[address : address + size])

    def tables(self) -> PageTableMemory:
        directory = self.shape.linear + 0xC00000
        return PageTableMemory(PariscPageTables(SHAPES[self.shape.translation], directory), self.physical)


@pytest.fixture(params=sorted(TABLES))
def parisc(request: pytest.FixtureRequest) -> Parisc:
    return Parisc(TABLES[request.param])


def test_parisc_kernel_memory_is_linear(parisc: Parisc) -> None:
    parisc.ram[0x100000:0x100004] = b"\x03\xff\x80\x1f"
    assert parisc.tables().read_span((parisc.shape.linear + 0x100000, 4)) == b"\x03\xff\x80\x1f"
    assert parisc.reads == 1


def test_parisc_module_memory_goes_through_the_tables(parisc: Parisc) -> None:
    assert parisc.tables().read_span((PAGE + 0xFFE, 4)) == b"\x01\x01\x02\x02"
    assert parisc.reads == 3 + len(parisc.shape.directories)
    assert parisc.tables().physical_address(PAGE + 0x1004) == parisc.physical_pages[1] + 4


@pytest.mark.parametrize("address", [PAGE + 0x2000, PAGE + (1 << 22)], ids=["no page", "no table"])
def test_parisc_unmapped_memory_is_an_error(parisc: Parisc, address: int) -> None:
    with pytest.raises(UnmappedError, match=f"{address:#x}"):
        parisc.tables().read_span((address, 4))


class Sparc64:
    """Physical memory of a sparc64: a kernel image, two module pages, and a huge page of the linear mapping."""

    directory, image_end = 0x402000, 0x800000
    module, linear = 0x10000000, 0xFFFFF80000000000
    valid = 1 << 63

    def __init__(self) -> None:
        self.ram = bytearray(32 << 20)
        self.word(self.directory, self.module >> 43, 0xA00000)
        self.word(0xA00000, self.module >> 33, 0xA02000)
        self.word(0xA02000, self.module >> 23, 0xA04000)
        for number, physical in enumerate((0x900000, 0x1500000)):
            self.word(0xA04000, (self.module >> 13) + number, self.valid | physical | 0x3A)
            self.ram[physical : physical + 0x2000] = bytes([number + 1]) * 0x2000
        self.word(self.directory, self.linear >> 43, 0xA06000)
        self.word(0xA06000, self.linear >> 33, 0xA08000)
        self.word(0xA08000, (self.linear >> 23) + 1, self.valid | 1 << 56 | 0x1000000)

    def word(self, table: int, index: int, value: int) -> None:
        struct.pack_into(">Q", self.ram, table + 8 * (index & 0x3FF), value)

    def memory(self) -> PageTableMemory:
        tables = Sparc64PageTables(self.directory, self.image_end)
        return PageTableMemory(tables, lambda address, size: bytes(self.ram[address : address + size]))


def test_sparc64_kernel_image_is_locked_in_the_tlb() -> None:
    sparc64 = Sparc64()
    sparc64.ram[0x404000:0x404004] = b"\x91\xd0\x20\x70"
    assert sparc64.memory().read_span((0x404000, 4)) == b"\x91\xd0\x20\x70"


def test_sparc64_module_memory_goes_through_the_tables() -> None:
    sparc64 = Sparc64()
    assert sparc64.memory().read_span((sparc64.module + 0x1FFE, 4)) == b"\x01\x01\x02\x02"
    assert sparc64.memory().physical_address(sparc64.module + 0x2008) == 0x1500008


def test_sparc64_huge_page() -> None:
    sparc64 = Sparc64()
    address = sparc64.linear + (8 << 20) + 0x412345
    assert sparc64.memory().physical_address(address) == 0x1412345


@pytest.mark.parametrize("address", [Sparc64.module + 0x4000, Sparc64.module + (1 << 23), 1 << 44])
def test_sparc64_unmapped_memory_is_an_error(address: int) -> None:
    with pytest.raises(GuestError, match=f"{address:#x}"):
        Sparc64().memory().read_span((address, 4))


class SuperH:
    """Physical memory of an r2d board: an image, the directory in it, and two pages of a module."""

    ram_start, directory, module = 0x0C000000, 0x0C003080, 0xC0400000
    present = 0x100

    def __init__(self) -> None:
        self.ram = bytearray(1 << 20)
        # The address of a table is virtual, in P1.
        self.word(self.directory + 4 * (self.module >> 22), 0x8C010000)
        for number, physical in enumerate((0x0C020000, 0x0C012000)):
            self.word(0x0C010000 + 4 * number, physical | self.present | 0x7C)
            self.fill(physical, number + 1)
        self.word(0x0C010008, 0x0C030000)

    def word(self, address: int, value: int) -> None:
        struct.pack_into("<I", self.ram, address - self.ram_start, value)

    def fill(self, address: int, byte: int) -> None:
        start = address - self.ram_start
        self.ram[start : start + 0x1000] = bytes([byte]) * 0x1000

    def memory(self) -> PageTableMemory:
        def read(address: int, size: int) -> bytes:
            return bytes(self.ram[address - self.ram_start : address - self.ram_start + size])

        tables = MipsPageTables(TABLE_SHAPES[AddressTranslation.SUPERH_TABLES], self.directory | 0x80000000)
        return PageTableMemory(tables, read)


@pytest.mark.parametrize("segment", [0x80000000, 0xA0000000], ids=["P1", "P2"])
def test_superh_segments_are_not_translated(segment: int) -> None:
    superh = SuperH()
    superh.word(0x0C041000, 0xC33A0009)
    assert superh.memory().read_span((segment | 0x0C041000, 4)) == b"\x09\x00\x3a\xc3"


def test_superh_module_memory_goes_through_the_tables() -> None:
    superh = SuperH()
    assert superh.memory().read_span((superh.module + 0xFFE, 4)) == b"\x01\x01\x02\x02"
    assert superh.memory().physical_address(superh.module + 0x1008) == 0x0C012008


@pytest.mark.parametrize("address", [SuperH.module + 0x2000, SuperH.module + (1 << 22)], ids=["no page", "no table"])
def test_superh_unmapped_memory_is_an_error(address: int) -> None:
    with pytest.raises(UnmappedError, match=f"{address:#x}"):
        SuperH().memory().read_span((address, 4))


@pytest.mark.parametrize("order", ["<", ">"])
def test_build_id_among_other_notes(order: str) -> None:
    other = struct.pack(f"{order}3I", 6, 5, 1) + b"Linux\0\0\0" + b"12345\0\0\0"
    wanted = struct.pack(f"{order}3I", 4, 20, 3) + b"GNU\0" + bytes(range(20))
    assert build_id(other + wanted + other) == bytes(range(20)).hex()
    assert build_id(other + other) == ""
