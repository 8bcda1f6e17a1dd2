"""Sections that arm64's loader fills: what is measured by the file's relocations, and which entries are its own."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from harness.core.elf import Elf
from harness.landing.code import module_plt
from harness.landing.code.loader_filled_section import JumpForm
from harness.landing.code.module_plt import (
    ARM_BLOCK_SIZE,
    ENTRY_SIZE,
    JumpEntry,
    decode_entry,
    find_foreign_entry_offsets,
)
from harness.landing.verify.loaded_modules import LoadedModule

PLT, TARGET = 0xFFFF_AFB4_0000_1040, 0xFFFF_AFB4_CA66_8AF0
BR_X16 = 0xD61F0200
BL_TO_NOBODY = 0x94000000

MODULE = """\
        .text
        .globl f
        .type f, @function
f:      bl outside
        b outside_too
        bl g
        adrp x0, datum
        ret
        .section .text.g, "ax", @progbits
        .type g, @function
g:      ret
        .section .plt, "ax", @progbits
        .byte 0
        .section .text.ftrace_trampoline, "ax", @progbits
        .byte 0
        .data
datum:  .quad 0
"""


def entry(target: int, at: int = PLT, register: int = 16, jump: int = BR_X16) -> bytes:
    """An entry as get_plt_entry() makes it (arch/arm64/kernel/module-plts.c, 6.1)."""
    pages = ((target >> 12) - (at >> 12)) & 0x1FFFFF
    adrp = 0x90000000 | (pages & 3) << 29 | (pages >> 2) << 5 | register
    add = 0x91000000 | (target & 0xFFF) << 10 | register << 5 | register
    return struct.pack("<III", adrp, add, jump)


@pytest.fixture
def module(tmp_path: Path) -> Elf:
    source, built = tmp_path / "m.s", tmp_path / "m.o"
    source.write_text(MODULE)
    subprocess.run(["aarch64-linux-gnu-as", "-o", built, source], check=True)
    return Elf.read(built)


@pytest.mark.parametrize("target", [TARGET, PLT - 0x7FFF_F000, PLT + 8])
def test_an_entry_jumps_where_the_loader_made_it_jump(target: int) -> None:
    assert decode_entry(entry(target), PLT) == JumpEntry(target)


def test_a_veneer_goes_back_to_its_module() -> None:
    back = 0x14000000 | ((-0x40 // 4) & 0x3FFFFFF)
    assert decode_entry(entry(TARGET, register=3, jump=back), PLT) == JumpEntry(PLT + 8 - 0x40, returns_to_module=True)


@pytest.mark.parametrize(
    "piece",
    [
        entry(TARGET)[:8],
        entry(TARGET, register=17),
        entry(TARGET, jump=0xD61F0220),
        entry(TARGET, jump=BL_TO_NOBODY),
        bytes.fromhex("800020d4") + entry(TARGET)[4:],
    ],
    ids=["cut", "another register", "a jump by another register", "a call", "a breakpoint"],
)
def test_other_bytes_are_no_entry(piece: bytes) -> None:
    assert decode_entry(piece, PLT) is None


def test_only_entries_of_the_loader_are_no_strays() -> None:
    content = entry(TARGET) + bytes(ENTRY_SIZE) + entry(TARGET + 4, PLT + 2 * ENTRY_SIZE) + b"\1"
    assert list(find_foreign_entry_offsets(content, PLT, {TARGET}, lambda _: False)) == [2 * ENTRY_SIZE, 3 * ENTRY_SIZE]
    assert list(find_foreign_entry_offsets(content, PLT, {TARGET, TARGET + 4}, lambda _: False)) == [3 * ENTRY_SIZE]


def test_a_veneer_that_leaves_its_module_is_a_stray() -> None:
    veneer = entry(TARGET, register=3, jump=0x14000000)
    assert list(find_foreign_entry_offsets(veneer, PLT, {PLT + 8}, lambda _: False)) == [0]
    assert list(find_foreign_entry_offsets(veneer, PLT, set(), lambda at: at == PLT + 8)) == []


def test_the_entries_of_a_module_are_those_of_its_calls(module: Elf) -> None:
    assert set(module_plt.loader_filled_sections(module)) == {".plt", ".text.ftrace_trampoline"}
    assert {symbol.name for symbol, _ in module_plt.jump_target_symbols(module, ".plt")} >= {
        "outside",
        "outside_too",
    }
    assert [symbol.name for symbol, _ in module_plt.jump_target_symbols(module, ".text.ftrace_trampoline")] == [
        "ftrace_caller",
        "ftrace_regs_caller",
    ]


def test_a_filled_section_is_read_whole_and_no_further_than_the_next(module: Elf) -> None:
    """The file has one byte of it: to compare that one alone would pass over every other."""
    sections = {".text": 0x1000, ".plt": 0x1040, ".text.ftrace_trampoline": 0x1058, ".data": 0x2000}
    loaded = {name: size for name, _, size in LoadedModule("m", 0x1000, 0x2000, module, sections).code_sections()}
    assert loaded[".plt"] == 2 * ENTRY_SIZE
    assert loaded[".text.ftrace_trampoline"] == ENTRY_SIZE
    alone = LoadedModule("m", 0x1000, 0x2000, module, {".plt": 0x1040})
    # Three calls that leave their section, an ADRP, and one to spare.
    assert [size for _, _, size in alone.code_sections()] == [5 * ENTRY_SIZE]


def arm_block(*targets: int) -> bytes:
    """One block of an ARM module's .plt: 16 loads, and as many words as there are targets, the others zero."""
    return struct.pack("<16I", *[0xE59FF038] * 16) + struct.pack(f"<{len(targets)}I", *targets).ljust(64, b"\0")


def test_only_jumps_of_arms_loader_are_no_strays() -> None:
    whole = arm_block(TARGET & 0xFFFFFFFF, 0xC0300000) + bytes(ARM_BLOCK_SIZE)

    def strays(content: bytes, *allowed: int) -> list[int]:
        return list(find_foreign_entry_offsets(content, PLT, set(allowed), lambda _: False, JumpForm.ARM))

    assert strays(whole, TARGET & 0xFFFFFFFF, 0xC0300000) == []
    assert strays(whole, TARGET & 0xFFFFFFFF) == [4]
    assert strays(whole[:8] + bytes.fromhex("f801f0e7") + whole[12:], TARGET & 0xFFFFFFFF, 0xC0300000) == [8]
    assert strays(whole[:60], TARGET & 0xFFFFFFFF, 0xC0300000) == list(range(0, 60, 4))
