"""PowerPC instructions are classified as the kernel and the CPU treat them: flow, target, refused probes, entries."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Callable

import capstone
import pytest

from harness.landing.code import decode_ppc64
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.sites.rules_ppc64 import refusal_errno_and_reason

ALIGNING_NOP = 0x60420000
NOP, BLR, MFLR, LWARX, STWCX = 0x60000000, 0x4E800020, 0x7C0802A6, 0x7D201828, 0x7D20192D
TOC = (0x3C4C0001, 0x38428000)  # addis r2,r12,1; addi r2,r2,-32768


def packed(*words: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}{len(words)}I", *words)


@pytest.mark.parametrize(
    ("word", "flow", "kind", "target"),
    [
        (0x38630001, Flow.PLAIN, InstructionKind.OTHER, None),  # addi r3,r3,1
        (MFLR, Flow.PLAIN, InstructionKind.OTHER, None),
        (0xF8010010, Flow.PLAIN, InstructionKind.OTHER, None),  # std r0,16(r1)
        (0xF821FFC1, Flow.PLAIN, InstructionKind.STACK_STORE, None),  # stdu r1,-64(r1)
        (0xF821FFC0, Flow.PLAIN, InstructionKind.OTHER, None),  # std r1,-64(r1)
        (0xF87EFFC1, Flow.PLAIN, InstructionKind.OTHER, None),  # stdu r3,-64(r30)
        (0x7C21496A, Flow.PLAIN, InstructionKind.STACK_STORE, None),  # stdux r1,r1,r9
        (NOP, Flow.NOP, InstructionKind.OTHER, None),
        (ALIGNING_NOP, Flow.PLAIN, InstructionKind.OTHER, None),
        (0x48000010, Flow.ENDS, InstructionKind.JUMP, 16),  # b .+16
        (0x4BFFFFF8, Flow.ENDS, InstructionKind.JUMP, -8),  # b .-8
        (0x48000101, Flow.ENDS, InstructionKind.CALL, 256),  # bl .+256
        (0x48000102, Flow.ENDS, InstructionKind.JUMP, None),  # ba 256: an absolute address
        (0x4182000C, Flow.ENDS, InstructionKind.CONDITIONAL, 12),  # beq .+12
        (0x4200FFFC, Flow.ENDS, InstructionKind.CONDITIONAL, -4),  # bdnz .-4
        (0x42800008, Flow.ENDS, InstructionKind.JUMP, 8),  # bc 20,0,.+8
        (0x429F0005, Flow.ENDS, InstructionKind.CALL, 4),  # bcl 20,31,.+4: the program counter
        (BLR, Flow.ENDS, InstructionKind.RETURN, None),
        (0x4D820020, Flow.ENDS, InstructionKind.CONDITIONAL, None),  # beqlr
        (0x4E800021, Flow.ENDS, InstructionKind.CALL, None),  # blrl
        (0x4E800420, Flow.COMPUTED, InstructionKind.JUMP, None),  # bctr
        (0x4E800421, Flow.ENDS, InstructionKind.CALL, None),  # bctrl
        (0x44000002, Flow.ENDS, InstructionKind.OTHER, None),  # sc
        (0x4C000024, Flow.ENDS, InstructionKind.OTHER, None),  # rfid
        (0x7FE00008, Flow.ENDS, InstructionKind.OTHER, None),  # trap
        (0x0FE00000, Flow.ENDS, InstructionKind.OTHER, None),  # twui r0,0: BUG()
        (0x0B030000, Flow.REFUSED, InstructionKind.OTHER, None),  # tdnei r3,0: WARN_ON()
        (0x7C832008, Flow.REFUSED, InstructionKind.OTHER, None),  # tweq r3,r4
        (0x7C600164, Flow.REFUSED, InstructionKind.OTHER, None),  # mtmsrd r3
        (0x4C00012C, Flow.PLAIN, InstructionKind.OTHER, None),  # isync
        (0, Flow.ENDS, InstructionKind.OTHER, None),
    ],
)
def test_an_instruction(word: int, flow: Flow, kind: InstructionKind, target: int | None) -> None:
    (found,) = decode_ppc64.decode(packed(word))
    assert (found.flow, found.kind, found.target, found.size) == (flow, kind, target, 4)
    assert found.is_padding == (word in (0, NOP, ALIGNING_NOP))


def test_a_prefixed_instruction_has_two_words() -> None:
    code = packed(MFLR, 0x06000000, 0x38600001, BLR, 0x06000000)  # pli r3,1; at the end a prefix without its word
    assert [(each.offset, each.size) for each in decode_ppc64.decode(code)] == [(0, 4), (4, 8), (12, 4), (16, 4)]
    assert decode_ppc64.instruction_starts(code) == [0, 4, 12, 16]
    assert refusal_errno_and_reason(code, 8, (6, 1)) == (errno.EINVAL, "second word of a prefixed instruction")
    assert refusal_errno_and_reason(code, 4, (6, 1)) == (0, "")


@pytest.mark.parametrize(
    ("words", "offset"),
    [
        ((*TOC, MFLR), 8),
        ((0x3C40C000, TOC[1], MFLR), 8),  # lis r2: what the linker makes of it in the kernel
        ((0xE84CFFF8, 0x7C426214, MFLR), 8),  # ld r2,-8(r12); add r2,r2,r12: a module's file
        ((0xE84CFFF8, TOC[1], MFLR), 0),
        ((TOC[0], 0x38428000 | 1 << 21, MFLR), 0),  # addi r3,r2
        ((0x3C6C0001, TOC[1], MFLR), 0),  # addis r3,r12
        ((MFLR, *TOC), 0),
        ((TOC[0],), 0),
    ],
)
def test_a_local_entry_follows_the_code_that_computes_r2(words: tuple[int, ...], offset: int) -> None:
    assert decode_ppc64.local_entry_offset(packed(*words)) == offset
    conditional = [each.offset for each in decode_ppc64.decode(packed(*words)) if each.is_conditional]
    assert conditional == ([4] if offset else [])


def test_the_distance_to_the_toc_is_before_a_function_that_loads_it() -> None:
    assert decode_ppc64.data_size_before(packed(0xE84CFFF8, 0x7C426214)) == 8
    assert decode_ppc64.data_size_before(packed(*TOC)) == 0
    assert decode_ppc64.data_size_before(packed(0xE84CFFF8, MFLR)) == 0
    assert decode_ppc64.data_size_before(b"") == 0


def test_no_store_succeeds_after_a_probe_on_its_load_on_itself_or_between() -> None:
    found = decode_ppc64.decode(packed(STWCX, MFLR, LWARX, MFLR, STWCX, MFLR, LWARX))
    assert [each.offset for each in found if each.flow is Flow.EXCLUSIVE] == [8, 12, 16]


def test_stubs_of_a_module() -> None:
    far = packed(0x3D62FFFF, 0x396B1234, 0xF8410018, 0xE98B0020, 0x7D8903A6, 0x4E800420, 0, 0x73747562, 1, 2)
    traced = packed(0xE98D0020, 0x3D8CFFFF, 0x398C0010, 0x7D8903A6, 0x4E800420, 0, 0, 0x73747562, 1, 2)
    assert decode_ppc64.stub_ranges(far + traced + packed(BLR)) == [(0, 40), (40, 80)]
    assert decode_ppc64.stub_ranges(packed(*[MFLR] * 12)) == []


@pytest.mark.parametrize(
    ("order", "mode", "decode"),
    [
        ("<", capstone.CS_MODE_LITTLE_ENDIAN, decode_ppc64.decode),
        (">", capstone.CS_MODE_BIG_ENDIAN, decode_ppc64.decode_big_endian),
    ],
    ids=["little", "big"],
)
def test_branches_are_capstones(order: str, mode: int, decode: Callable[[bytes], list[Instruction]]) -> None:
    """Of any word that capstone knows, what it calls a branch, and the branch's target, agree."""
    noise = random.Random(4)
    capstones = capstone.Cs(capstone.CS_ARCH_PPC, capstone.CS_MODE_64 | mode)
    capstones.detail = True
    checked = 0
    for _ in range(20000):
        # Relative branches of opcodes 16 and 18, and those of opcode 19, as often as all others.
        opcode = noise.choice((16, 18, 19, noise.randrange(2, 64)))
        word = opcode << 26 | noise.getrandbits(26) & ~2
        for each in capstones.disasm(packed(word, order=order), 0x10000000):
            (found,) = decode(packed(word, order=order))
            leaves = opcode in (16, 18) or (opcode == 19 and each.mnemonic.startswith("b"))
            if not leaves:
                continue
            checked += 1
            assert found.flow in (Flow.ENDS, Flow.COMPUTED), (each.mnemonic, each.op_str, hex(word))
            if opcode in (16, 18):
                assert f"{0x10000000 + (found.target or 0):#x}" in each.op_str, (each.mnemonic, each.op_str)
    assert checked > 4000


def test_refused_are_those_that_cannot_be_stepped() -> None:
    refused = {0x7C600164: "mtmsrd", 0x7C600124: "mtmsr", 0x44000002: "sc", 0x08000000: "tdi", 0x0C000000: "twi"}
    for word, name in refused.items():
        assert refusal_errno_and_reason(packed(word), 0, (6, 1)) == (errno.EINVAL, f"{name} cannot be stepped")
    assert refusal_errno_and_reason(packed(MFLR), 0, (6, 1)) == (0, "")
