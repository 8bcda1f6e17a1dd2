"""Patched code of newer arm64 kernels: ftrace's sites with a pointer before them, and constants known at boot."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.elf import Elf
from harness.landing.code.patch_sites import LINKED, Range, ftrace_sites, patch_sites

START = 0x10000
HEAD = ".text\n.globl _stext, _etext\n_stext:\n"
# Functions of -fpatchable-function-entry=4,2: without and with a landing pad. The table has their first nops.
WITH_POINTERS = f"""{HEAD}
first:  nop; nop
f:      nop; nop; ret; nop
second: nop; nop
g:      bti c; nop; nop; ret
_etext:
"""
# Functions of -fpatchable-function-entry=2; the first one begins with two more nops.
WITHOUT_POINTERS = f"""{HEAD}
first:  nop; nop; nop; nop; ret
second: nop; nop; ret
        .zero 8
_etext:
"""
# The linker has discarded the first function of the table.
KERNEL_TABLE = """
        .data
        .globl __start_mcount_loc, __stop_mcount_loc
__start_mcount_loc: .quad 0, first, second
__stop_mcount_loc:
__alt_instructions: .long first - ., first - .; .hword 0; .byte 0, 0
__alt_instructions_end:
"""
MODULE_TABLE = """
        .section __patchable_function_entries, "awo", @progbits, .text
        .quad first, second
"""


def assembled(tmp_path: Path, text: str, flags: tuple[str, ...] = ()) -> Path:
    """Assemble the text into an object file."""
    source, made = tmp_path / "code.s", tmp_path / "code.o"
    source.write_text(text)
    subprocess.run(["aarch64-linux-gnu-as", "-march=armv8.5-a", *flags, "-o", made, source], check=True)
    return made


def kernel(tmp_path: Path, text: str) -> Elf:
    """Link the text with its table as a kernel."""
    linked = tmp_path / "vmlinux"
    made = assembled(tmp_path, text + KERNEL_TABLE)
    subprocess.run(["aarch64-linux-gnu-ld", "-e", "_stext", f"-Ttext={START:#x}", made, "-o", linked], check=True)
    return Elf.read(linked)


def test_a_kernels_sites_are_behind_the_pointers(tmp_path: Path) -> None:
    elf = kernel(tmp_path, WITH_POINTERS)
    sites = [Range(START + 8, START + 16), Range(START + 36, START + 44)]
    assert list(ftrace_sites(elf).ranges_by_place[LINKED]) == sites
    pointers = {*range(8), *range(24, 32)}
    assert patch_sites(elf, ftrace=False).patched_offsets(LINKED, START, 48) == pointers
    assert patch_sites(elf).patched_offsets(LINKED, START, 48) == pointers | {*range(8, 16), *range(36, 44)}


def test_nops_of_one_function_are_no_pointer(tmp_path: Path) -> None:
    elf = kernel(tmp_path, WITHOUT_POINTERS)
    assert list(ftrace_sites(elf).ranges_by_place[LINKED]) == [Range(START, START + 8), Range(START + 20, START + 28)]
    assert patch_sites(elf, ftrace=False).patched_offsets(LINKED, START, 32) == set()


@pytest.mark.parametrize(
    ("text", "sites", "pointers"),
    [
        (WITH_POINTERS, [Range(8, 16), Range(36, 44)], {*range(8), *range(24, 32)}),
        (WITHOUT_POINTERS, [Range(0, 8), Range(20, 28)], set()),
    ],
)
def test_a_modules_sites_are_the_same(tmp_path: Path, text: str, sites: list[Range], pointers: set[int]) -> None:
    elf = Elf.read(assembled(tmp_path, text + MODULE_TABLE))
    assert list(ftrace_sites(elf).ranges_by_place[".text"]) == sites
    assert patch_sites(elf, ftrace=False).patched_offsets(".text", 0, 48) == pointers


def test_constants_that_boot_alone_knows_are_patched(tmp_path: Path) -> None:
    """A pointer takes four moves, a shift and a mask one instruction each."""
    code = f"{HEAD}1: .zero 16\n2: nop\n nop\n3: nop\n .zero 8\n_etext:\nfirst:\nsecond:\n.zero 20\n"
    kinds = {"ptr": "1b", "shift": "2b", "mask": "3b"}
    rows = [f"__start_runtime_{kind}_x: .long {at} - .\n__stop_runtime_{kind}_x:\n" for kind, at in kinds.items()]
    elf = kernel(tmp_path, f"{code}.data\n{''.join(rows)}")
    assert patch_sites(elf, ftrace=False).patched_offsets(LINKED, START, 28) == {*range(20), *range(24, 28)}
