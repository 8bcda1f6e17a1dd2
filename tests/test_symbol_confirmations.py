"""Symbols of a kernel are confirmed by its export tables, its unwind and ftrace tables, and its BTF."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.struct_fields import function_names_in_btf
from harness.images import debug_symbols
from harness.landing.code.exported_symbols import exported_symbols
from harness.landing.code.symbol_confirmations import BTF, DEBUG, EXPORTS, UNWIND, SymbolConfirmations

# Two exported functions, and one that is not; the first name is the end of the second, as the linker merges strings.
SOURCE = """
    .section __ksymtab_strings, "a"
names: .asciz "unregister_kprobe"
    .section __ksymtab, "a"
    .long register_kprobe - ., names + 2 - ., 0
    .section __ksymtab_gpl, "a"
    .long unregister_kprobe - ., names - ., 0
    .section .orc_unwind_ip, "a"
    .long register_kprobe - .
    .long unregister_kprobe - 16 - .
    .section .orc_unwind, "a"
    .short 8, 0, 5, 8, 0, 5
    .text
    .globl _start, _stext, _etext
_start: _stext:
    .type register_kprobe, @function
register_kprobe: .fill 16, 1, 0xc3
    .size register_kprobe, 16
    .fill 16, 1, 0x90
    .type unregister_kprobe, @function
unregister_kprobe: .fill 16, 1, 0xc3
    .size unregister_kprobe, 16
    .type kept_inside, @function
kept_inside: .fill 16, 1, 0xc3
    .size kept_inside, 16
_etext:
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Elf:
    """A file with the tables of an x86_64 kernel."""
    source, made, linked = tmp_path / "k.s", tmp_path / "k.o", tmp_path / "k"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-c", "-o", made, source], check=True)
    subprocess.run(["ld", "-o", linked, made], check=True)
    return Elf.read(linked)


def test_exports_have_names_and_addresses(kernel: Elf) -> None:
    assert exported_symbols(kernel) == {
        name: kernel.function(name).address for name in ("register_kprobe", "unregister_kprobe")
    }


def test_each_source_is_named(kernel: Elf) -> None:
    found = SymbolConfirmations(kernel)
    assert found.sources_of(kernel.function("register_kprobe")) == (EXPORTS, UNWIND)
    assert found.sources_of(kernel.function("unregister_kprobe")) == (EXPORTS, UNWIND)
    assert found.sources_of(kernel.function("kept_inside")) == ()


def test_counts_are_by_source_and_by_address(kernel: Elf) -> None:
    functions = [kernel.function(name) for name in ("register_kprobe", "kept_inside")]
    counts = SymbolConfirmations(kernel).counts(functions)
    assert (counts[EXPORTS], counts[UNWIND], counts[BTF], counts["independent"]) == (1, 1, 0, 1)


def test_exchanged_symbols_are_contradicted(kernel: Elf) -> None:
    first, second = kernel.function("register_kprobe"), kernel.function("unregister_kprobe")
    wrong = SymbolConfirmations(kernel).contradictions(
        [first._replace(address=second.address), second._replace(address=first.address)]
    )
    assert [(each.name, each.source, each.source_addresses) for each in wrong] == [
        ("register_kprobe", EXPORTS, (first.address,)),
        ("unregister_kprobe", EXPORTS, (second.address,)),
    ]
    assert SymbolConfirmations(kernel).contradictions([first, second]) == []


def test_the_debug_package_confirms_what_no_table_of_the_file_has(kernel: Elf, tmp_path: Path) -> None:
    inside, first = kernel.function("kept_inside"), kernel.function("register_kprobe")
    listed = tmp_path / "functions"
    listed.write_text("".join(debug_symbols._lines(kernel)))
    found = SymbolConfirmations(kernel, listed)
    assert found.sources_of(inside) == (DEBUG,)
    assert found.contradictions([inside, first]) == []
    moved = inside._replace(address=inside.address + 4)
    assert SymbolConfirmations(kernel).contradictions([moved]) == []
    assert [str(each) for each in found.contradictions([moved])] == [
        f"kept_inside: symbol at {moved.address:#x}, in debug at {inside.address:#x}"
    ]
    # The ends of functions are compared only where the file has them.
    symbols = [inside, first._replace(size=15), first._replace(size_includes_padding=True)]
    assert dict(found.size_counts(symbols)) == {"sizes": 2, "same": 1, "longer": 0, "shorter": 1}


def test_a_file_without_tables_confirms_nothing(tmp_path: Path) -> None:
    source, made = tmp_path / "k.s", tmp_path / "k"
    source.write_text(".text\n.globl _start\n.type _start, @function\n_start: ret\n")
    subprocess.run(["gcc", "-nostdlib", "-static", "-o", made, source], check=True)
    bare = Elf.read(made)
    assert SymbolConfirmations(bare).sources_of(bare.function("_start")) == ()


DESCRIBED = """
.globl _start, register_kprobe, jiffies
.text
_start: nop
register_kprobe: nop
.section .opd, "aw"
first: .dword 0, 0, _start, 0x1234
second: .dword 0, 0, register_kprobe, 0x1234
.data
jiffies: .dword 5
.section __ksymtab_strings, "aMS", %progbits, 1
one: .asciz "register_kprobe"
two: .asciz "jiffies"
.section __ksymtab, "a"
.dword second, one, 0
.dword jiffies, two, 0
"""


def test_an_export_of_a_function_with_a_descriptor_has_its_code(tmp_path: Path) -> None:
    """A row names the descriptor, in `.opd`; one of data names the data (64-bit PA-RISC)."""
    prefix = ARCHITECTURES["parisc64"].cross_prefix
    if shutil.which(f"{prefix}gcc") is None:
        pytest.skip(f"{prefix}gcc is not installed")
    source, made = tmp_path / "it.s", tmp_path / "it"
    source.write_text(DESCRIBED)
    subprocess.run([f"{prefix}gcc", "-nostdlib", "-static", "-Wl,-e,_start", "-o", made, source], check=True)
    elf = Elf.read(made)
    symbols = {symbol.name: symbol.address for symbol in elf.symbols}
    assert exported_symbols(elf) == {name: symbols[name] for name in ("register_kprobe", "jiffies")}


def btf(*types: bytes, strings: bytes) -> bytes:
    body = b"".join(types)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings)) + body + strings


def test_only_functions_of_btf_are_named() -> None:
    strings = b"\0int\0leaf\0task\0member\0"
    integer = struct.pack("<IIII", 1, 1 << 24, 4, 32)
    structure = struct.pack("<IIIIII", 10, 4 << 24 | 1, 4, 15, 1, 0)
    prototype = struct.pack("<IIIII", 0, 13 << 24 | 1, 1, 0, 1)
    function = struct.pack("<III", 5, 12 << 24, 3)
    found = function_names_in_btf(btf(integer, structure, prototype, function, strings=strings))
    assert found == {"leaf"}


def test_damaged_btf_has_no_names() -> None:
    assert function_names_in_btf(b"\x9f\xeb\x01") == frozenset()
