"""Big-endian files of 64-bit PowerPC are read: descriptors of functions, code, rules, and the stubs of modules."""

from __future__ import annotations

import errno
import random
import struct
from pathlib import Path

import pytest
from compressed_objects import read_object

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf
from harness.landing.code import decode_ppc64
from harness.landing.code.instruction import InstructionKind
from harness.landing.code.instructions import decode_function, once_per_call_boundaries
from harness.landing.code.module_plt import find_foreign_entry_offsets
from harness.landing.code.module_ppc64_stubs import STUB_V1
from harness.landing.code.patch_tables import JumpForm
from harness.landing.sites import rules_ppc64

MODULE = """\
        .globl outer, .outer
        .section .opd, "aw"
        .align 3
outer:  .8byte .outer, .TOC.@tocbase, 0
        .size outer, 24
inner:  .8byte .inner, .TOC.@tocbase, 0
        .size inner, 24
        .text
        .type .inner, @function
.inner: li 3,1
        blr
        .size .inner, .-.inner
        .type .outer, @function
.outer: mflr 0
        std 0,16(1)
        bl .elsewhere
        nop
        bl .inner
        blr
        .size .outer, .-.outer
"""

# The object file that powerpc64-linux-gnu-as -mpower8 -a64 makes of MODULE, compressed.
OBJECT = """\
eNqrd/VxY2JiZIADRgZRMIkVMEWAKQcoycXAaZHAwOjXwKBQw8G07Acjg4AHUG8CUNL7//+XIHEGKgJmHO5iBiOs4iw4xFmxeY4BIS6BRDMyYdrLAcSc
ApjmgNRzCCHUcyCJ8wtgc4xeZl5eahGDXn5pCYhKzSlOLc9ILUpFVQXSygnEXFhMANmhhkUMBIyxuI8Ri3oFDPV6xZW5JYlJQLqkCEJnwFhFqTmJeiWp
FSUMeimJJYkMeknFxVDR/IIUqkW3AlI6ZEOTc0BzNyL1IoA0AyL+HdCULUAKD3YG7PGlhiSOnr4ScLgZ2X4dJPPI0W9GhP0GOOIdBAzx+H8HkjnsSOme
Ay2dMOFw5wQo/QGqhx2Lfk4GHPkSaHQDlCGFx/+CuPUzwfKnNS79AOvSMR4=
"""

START, TOC, TARGET = 0x8000_0000_0123_0000, 0x8000_0000_0124_8000, 0xC000_0000_0030_0000


@pytest.fixture
def module(tmp_path: Path) -> Elf:
    return read_object(OBJECT, tmp_path)


def test_a_name_is_that_of_the_function_and_not_of_its_descriptor(module: Elf) -> None:
    assert [(each.name, each.section) for each in module.symbols_named("outer")] == [("outer", ".text")]
    assert {each.name for each in module.symbols if each.section == ".opd"} == {""}
    assert {each.name for each in module.symbols if not each.section} == {"elsewhere"}


def test_code_is_big_endian(module: Elf) -> None:
    code = decode_function(module, module.function("outer"), DecoderKind.PPC64_BIG)
    calls = [each.offset for each in code if each.kind is InstructionKind.CALL]
    assert (calls, code[-1].kind) == ([8, 16], InstructionKind.RETURN)
    assert once_per_call_boundaries(module, module.function("outer"), DecoderKind.PPC64_BIG) == (0, 4)


def test_the_loader_restores_the_toc_after_a_call_of_another_file(module: Elf) -> None:
    outer = module.function("outer")
    changed = module.relocated_positions_within_range(".text", outer.address, outer.size)
    assert changed == set(range(8, 16))


def test_words_are_decoded_as_those_of_little_endian_code() -> None:
    noise = random.Random(5)
    words = [noise.getrandbits(32) for _ in range(5000)]
    little, big = (struct.pack(f"{order}{len(words)}I", *words) for order in "<>")
    assert decode_ppc64.decode_big_endian(big) == decode_ppc64.decode(little)
    assert decode_ppc64.instruction_starts_big_endian(big) == decode_ppc64.instruction_starts(little)


def test_a_function_has_one_entry() -> None:
    toc = struct.pack(">3I", 0x3C4C0001, 0x38428000, 0x7C0802A6)
    assert not any(each.is_conditional for each in decode_ppc64.decode_big_endian(toc))


def test_a_probe_on_a_system_call_is_refused() -> None:
    assert rules_ppc64.refusal_in_big_endian(bytes.fromhex("44000002"), 0, (6, 1))[0] == errno.EINVAL
    assert rules_ppc64.refusal_in_big_endian(bytes.fromhex("02000044"), 0, (6, 1)) == (0, "")


def stub(at: int, target: int = TARGET, *, jump: int = 0x4E800420) -> bytes:
    """A stub as create_stub() writes it (arch/powerpc/kernel/module_64.c, 6.1), with a descriptor."""
    distance = at - TOC
    high, low = (distance + 0x8000) >> 16 & 0xFFFF, distance & 0xFFFF
    code = (0x3D620000 | high, 0x396B0000 | low, 0xF8410028, 0xE98B0020, 0xE84B0028, 0x7D8903A6, jump)
    return STUB_V1.pack(*code, 0x73747562, target, 0xC000_0000_0180_8000, 0)


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        (stub(START + 56), []),
        (stub(START + 56, TARGET + 4), [56]),
        (stub(START + 56, jump=0x4E800421), [56]),
        (stub(START + 60), [56]),
        (bytes(56), []),
    ],
)
def test_stubs_that_the_loader_does_not_write_are_found(second: bytes, wrong: list[int]) -> None:
    content = stub(START) + second + stub(START + 112) + stub(START + 168)
    assert list(find_foreign_entry_offsets(content, START, {TARGET}, lambda _: False, JumpForm.PPC64_V1)) == wrong
    assert decode_ppc64.stub_ranges_big_endian(content)[0] == (0, 56)
