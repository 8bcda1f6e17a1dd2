"""ELF files are read correctly; the installed compilers make the files here."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core import elf_in_place_addends, elf_symbols_and_relocations
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf, Relocation, Symbol
from harness.core.errors import PinpointError

_SOURCE = """
int counted = 7;
int zeroed[4];
__attribute__((noinline)) static int twice(int x) { return 2 * x; }
extern int elsewhere(int);
int *volatile pointer = &counted;
int entry(int x) { return elsewhere(twice(x)) + counted; }
int _start(void) { return entry(1); }
"""
_WHOLE = "int elsewhere(int x) { return x; }"
_MACHINES = {"x86_64": "EM_X86_64", "i386": "EM_386", "arm64": "EM_AARCH64", "parisc": "EM_PARISC"}


def _tool(architecture: str, tool: str) -> str:
    name = f"{ARCHITECTURES[architecture].cross_prefix}{tool}"
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def _run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True)


def _compile(directory: Path, architecture: str, flags: Sequence[str], sources: Sequence[str]) -> Path:
    files = []
    for number, text in enumerate(sources):
        files.append(directory / f"{number}.c")
        files[-1].write_text(text)
    made = directory / f"made-{architecture}"
    common = ["-O1", "-fno-pic", "-fno-pie", "-fno-builtin", "-fno-asynchronous-unwind-tables", "-o", str(made)]
    _run(_tool(architecture, "gcc"), *common, *flags, *files)
    return made


@pytest.fixture(params=sorted(_MACHINES))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(tmp_path: Path, architecture: str) -> Elf:
    """Return a relocatable file, like a kernel module."""
    return Elf.read(_compile(tmp_path, architecture, ["-c"], [_SOURCE]))


@pytest.fixture
def linked(tmp_path: Path, architecture: str) -> Elf:
    """Return an executable linked at a fixed address with its relocations kept, like an x86 vmlinux."""
    flags = ["-nostdlib", "-static", "-no-pie", "-Wl,--emit-relocs", "-Wl,--build-id=0xfeedbeef01"]
    return Elf.read(_compile(tmp_path, architecture, flags, [_SOURCE, _WHOLE]))


def test_header_names_machine_and_word_size(module: Elf, architecture: str) -> None:
    assert module.machine == _MACHINES[architecture]
    assert module.word_bytes == ARCHITECTURES[architecture].word_bytes
    assert module.byte_order == ("big" if architecture == "parisc" else "little")


def test_build_id_is_the_linkers(linked: Elf, module: Elf) -> None:
    assert linked.build_id == "feedbeef01"
    assert module.build_id == ""


def test_symbols_of_a_module_stand_in_their_sections(module: Elf) -> None:
    entry, twice = module.function("entry"), module.function("twice")
    assert (entry.binding, twice.binding) == ("global", "local")
    assert entry.section == twice.section
    assert not entry.size_includes_padding
    assert 0 <= entry.address < entry.address + entry.size <= module.sections_by_name[entry.section].size
    assert module.sections_by_name[entry.section].executable
    [zeroed] = module.symbols_named("zeroed")
    assert (zeroed.kind, zeroed.section, zeroed.size) == ("object", ".bss", 16)


def test_undefined_symbol_is_not_named(module: Elf) -> None:
    assert module.symbols_named("elsewhere") == []
    assert "elsewhere" in {symbol.name for symbol in module.symbols}


def test_function_sections_are_distinguished(tmp_path: Path, architecture: str) -> None:
    elf = Elf.read(_compile(tmp_path, architecture, ["-c", "-ffunction-sections"], [_SOURCE]))
    assert elf.function("entry").section == ".text.entry"
    assert elf.function("twice").section == ".text.twice"
    assert elf.function("twice").address == elf.function("entry").address == 0


def test_bytes_agree_with_objcopy(linked: Elf, architecture: str, tmp_path: Path) -> None:
    raw = tmp_path / "text"
    _run(_tool(architecture, "objcopy"), "-O", "binary", "--only-section=.text", linked.path, raw)
    text = linked.sections_by_name[".text"]
    assert linked.section_bytes(".text", 0, text.size) == raw.read_bytes()
    for name in ("entry", "twice", "elsewhere"):
        symbol = linked.function(name)
        start = symbol.address - text.address
        assert linked.offset_in_section(symbol) == start
        assert linked.function_bytes(symbol) == raw.read_bytes()[start : start + symbol.size]
        assert linked.bytes_at(symbol.address, symbol.size) == linked.function_bytes(symbol)


def test_data_and_bss_have_their_known_values(linked: Elf) -> None:
    [counted], [zeroed] = linked.symbols_named("counted"), linked.symbols_named("zeroed")
    assert int.from_bytes(linked.bytes_at(counted.address, 4), linked.byte_order) == 7
    assert linked.bytes_at(zeroed.address, zeroed.size) == bytes(16)


def test_relocations_of_module_and_linked_file_are_counted_alike(module: Elf, linked: Elf) -> None:
    for elf in (module, linked):
        entry = elf.function("entry")
        mask = elf.relocated_positions_within_range(entry.section, elf.offset_in_section(entry), entry.size)
        calls = [found for found in elf.relocations(entry.section) if found.symbol.name == "elsewhere"]
        assert len(calls) == 1
        at = calls[0].offset - elf.offset_in_section(entry)
        assert set(range(at, at + 4)) <= mask
        assert mask < set(range(entry.size))


def test_pointer_relocation_covers_a_whole_word(module: Elf) -> None:
    [pointer] = module.symbols_named("pointer")
    touched = module.relocated_positions_within_range(pointer.section, pointer.address, module.word_bytes)
    assert touched == set(range(module.word_bytes))


def test_mask_is_cut_at_the_window(module: Elf) -> None:
    [pointer] = module.symbols_named("pointer")
    assert module.relocated_positions_within_range(pointer.section, pointer.address + 2, 1) == {0}
    assert module.relocated_positions_within_range(pointer.section, pointer.address + module.word_bytes, 8) == set()


def test_function_without_size_reaches_to_the_next_symbol(tmp_path: Path) -> None:
    code = """.text
    .type first,@function
first: .fill 13,1,0x90
    .type second,@function
second: .fill 3,1,0x90
    .type last,@function
last: .fill 9,1,0x90
"""
    code = code.replace("@", "%")
    source = tmp_path / "bare.s"
    source.write_text(code)
    made = tmp_path / "bare.o"
    _run("gcc", "-c", "-o", made, source)
    elf = Elf.read(made)
    assert [
        (elf.function(name).size, elf.function(name).size_includes_padding) for name in ("first", "second", "last")
    ] == [
        (13, True),
        (3, True),
        (9, True),
    ]


def test_two_functions_of_one_name_are_refused(tmp_path: Path) -> None:
    twin = "__attribute__((used)) static int twin(void) { return %d; }"
    elf = Elf.read(_compile(tmp_path, "x86_64", ["-r", "-nostdlib"], [twin % 1, twin % 2]))
    assert len(elf.symbols_named("twin")) == 2
    with pytest.raises(PinpointError, match="2 functions are named 'twin'"):
        elf.function("twin")
    with pytest.raises(PinpointError, match="no function is named 'nobody'"):
        elf.function("nobody")


def test_sections_of_one_name_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "two.s"
    source.write_text('.section .text,"ax"\nnop\n.section .text,"ax",%progbits,unique,1\nnop\n')
    made = tmp_path / "two.o"
    _run("gcc", "-c", "-o", made, source)
    elf = Elf.read(made)
    assert elf.duplicated_section_names == {".text"}
    with pytest.raises(PinpointError, match=r"several sections are named '\.text'"):
        elf.section_bytes(".text", 0, 1)


def test_empty_sections_do_not_hide_their_namesake(tmp_path: Path) -> None:
    source = tmp_path / "empty.s"
    source.write_text('.section .text,"ax"\n.section .text,"ax",%progbits,unique,1\n.byte 42\n')
    made = tmp_path / "empty.o"
    _run("gcc", "-c", "-o", made, source)
    elf = Elf.read(made)
    assert elf.duplicated_section_names == frozenset()
    assert elf.section_bytes(".text", 0, 1) == b"*"


def test_outside_a_section_or_segment_is_refused(linked: Elf) -> None:
    size = linked.sections_by_name[".text"].size
    with pytest.raises(PinpointError, match=r"\.text has no 2 bytes at"):
        linked.section_bytes(".text", size - 1, 2)
    with pytest.raises(PinpointError, match=r"no section is named '\.nowhere'"):
        linked.section_bytes(".nowhere", 0, 0)
    with pytest.raises(PinpointError, match="no 1 bytes are linked at 0x1"):
        linked.bytes_at(1, 1)


def test_stripped_file_is_reported(linked: Elf, architecture: str, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    _run(_tool(architecture, "strip"), "-o", bare, linked.path)
    elf = Elf.read(bare)
    assert elf.build_id == linked.build_id
    with pytest.raises(PinpointError, match="no symbol table"):
        elf.function("entry")


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF", b"not an ELF file, however long it may be" * 9])
def test_other_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(PinpointError) as caught:
        Elf.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_file_and_directory_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(PinpointError, match=r"^[^\n]+$"):
            Elf.read(path)


def test_cut_anywhere_is_one_line_or_read(linked: Elf, tmp_path: Path) -> None:
    """A file that is cut at any byte is read or raises a PinpointError, and nothing else."""
    whole = linked.path.read_bytes()
    cut = tmp_path / "cut"
    complaints = []
    for length in range(0, len(whole), max(1, len(whole) // 97)):
        cut.write_bytes(whole[:length])
        try:
            elf = Elf.read(cut)
            elf.function_bytes(elf.function("entry"))
            elf.relocated_positions_within_range(".text", 0, 64)
        except PinpointError as error:
            complaints.append(str(error))
    assert len(complaints) > 90
    assert not any("\n" in complaint for complaint in complaints)


@pytest.mark.slow
def test_large_symbol_table_is_read_fast(tmp_path: Path) -> None:
    """95,000 symbols, as many as in a distribution's vmlinux, are read without a noticeable delay."""
    lines = [".text", *(f".globl f{number}\n.type f{number},%function\nf{number}: nop" for number in range(95_000))]
    source, made = tmp_path / "many.s", tmp_path / "many.o"
    source.write_text("\n".join(lines) + "\n")
    _run("gcc", "-c", "-o", made, source)
    began = time.thread_time()
    elf = Elf.read(made)
    last = elf.function("f94999")
    assert last.address >= 94_999
    assert time.thread_time() - began < 4.0


def test_a_kept_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "true"
    shutil.copyfile(sys.executable, path)
    first = Elf.read_cached(path)
    assert Elf.read_cached(path) is first
    os.utime(path, ns=(1, 1))
    assert Elf.read_cached(path) is not first


def test_addends_that_stand_in_the_bytes() -> None:
    symbol = Symbol("f", 0, 0, ".text", "func", "local")
    content = struct.pack("<iii", -4, 0x10, 7)
    listed = [Relocation(0, 2, symbol, 0), Relocation(4, 1, symbol, 0), Relocation(8, 99, symbol, 0)]
    form = elf_symbols_and_relocations.ElfFormat(4, little_endian=True)

    def read(offset: int, size: int) -> bytes:
        return content[offset : offset + size]

    found = list(elf_in_place_addends.with_addends(form, "EM_386", listed, read))
    # R_386_PC32 and R_386_32; nothing is read for a type that is not known to be a plain field.
    assert [each.addend for each in found] == [-4, 0x10, 0]
    assert list(elf_in_place_addends.with_addends(form, "EM_X86_64", listed, read)) == listed


def test_addends_of_superh_are_in_two_places() -> None:
    data = Symbol("data", 0, 0, ".data", "object", "local")
    form = elf_symbols_and_relocations.ElfFormat(4, little_endian=True)
    listed = [Relocation(0, 1, data, 0x10), Relocation(4, 2, data, 0), Relocation(8, 25, data, 3)]
    content = struct.pack("<3i", 0x200, -4, 7)

    def read(offset: int, size: int) -> bytes:
        return content[offset : offset + size]

    found = list(elf_in_place_addends.with_addends(form, "EM_SH", listed, read))
    # R_SH_DIR32 and R_SH_REL32
    assert [each.addend for each in found] == [0x210, -4, 3]
    assert elf_in_place_addends.are_in_place("EM_SH", "SHT_RELA")
    assert not elf_in_place_addends.are_in_place("EM_SPARCV9", "SHT_RELA")


def test_the_halves_of_an_address_have_one_addend() -> None:
    first, second = (Symbol(name, 0, 0, ".data", "object", "local") for name in ("first", "second"))
    # lui v0,1; lui v1,1; lw a0,-8(v0); lw a0,0x10(v1); lw a0,4(a1); j .text+0x48
    words = (0x3C020001, 0x3C030001, 0x8C44FFF8, 0x8C640010, 0x8CA40004, 0x08000012)
    content = struct.pack(f">{len(words)}I", *words)
    upper, lower, jump = 5, 6, 4
    listed = [
        *(Relocation(0, upper, first, 0), Relocation(4, upper, first, 0), Relocation(8, lower, first, 0)),
        *(Relocation(12, lower, first, 0), Relocation(16, lower, second, 0), Relocation(20, jump, first, 0)),
    ]
    form = elf_symbols_and_relocations.ElfFormat(4, little_endian=False)

    def read(offset: int, size: int) -> bytes:
        return content[offset : offset + size]

    found = {each.offset: each.addend for each in elf_in_place_addends.with_addends(form, "EM_MIPS", listed, read)}
    # Each upper half needs the sign of the first lower half after it; a lower half without one has its own field.
    assert found == {0: 0xFFF8, 4: 0xFFF8, 8: 0xFFF8, 12: 0x10010, 16: 4, 20: 0x48}
    alone = elf_in_place_addends.with_addends(form, "EM_MIPS", listed[:1], read)
    assert [each.addend for each in alone] == [0x10000]


def test_the_address_of_a_modules_section_means_nothing(tmp_path: Path) -> None:
    """`ld -r` sets one if its script merges sections without saying where they begin, as of modules since 6.19."""
    source = tmp_path / "m.c"
    source.write_text("int first(int x) { return x + 1; }\nint second(int x) { return x * 3; }\n")
    for words in (
        ["gcc", "-c", "-O1", "-o", "plain.o", "m.c"],
        ["objcopy", "--change-section-address", ".text=0x30", "plain.o", "moved.o"],
    ):
        subprocess.run(words, cwd=tmp_path, check=True)
    plain, moved = (Elf.read(tmp_path / name) for name in ("plain.o", "moved.o"))
    assert (
        b" 0000000000000030 "
        in subprocess.run(["readelf", "-SW", "moved.o"], cwd=tmp_path, check=True, capture_output=True).stdout
    )
    for name in ("first", "second"):
        symbol = moved.function(name)
        assert moved.offset_in_section(symbol) == plain.offset_in_section(plain.function(name))
        assert moved.function_bytes(symbol) == plain.function_bytes(plain.function(name))
