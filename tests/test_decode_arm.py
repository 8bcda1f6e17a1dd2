"""ARM instructions are classified as the kernel and the CPU treat them: flow, condition, data, and refused probes."""

from __future__ import annotations

import random
import struct

import capstone
import pytest
from capstone import arm_const

from harness.landing.code import decode_arm
from harness.landing.code.arm_kprobe_rules import BELOW_STACK, NOT_STEPPED, refusal_reason
from harness.landing.code.instruction import Flow, Instruction, InstructionKind


def decoded(*words: int) -> list[Instruction]:
    return decode_arm.decode(struct.pack(f"<{len(words)}I", *words))


@pytest.mark.parametrize(
    ("word", "flow", "kind", "conditional"),
    [
        (0xE92D4010, Flow.PLAIN, InstructionKind.OTHER, False),  # push {r4, lr}
        (0xE8BD8010, Flow.ENDS, InstructionKind.RETURN, False),  # pop {r4, pc}
        (0x08BD8010, Flow.ENDS, InstructionKind.RETURN, True),  # popeq {r4, pc}
        (0xE49DF004, Flow.ENDS, InstructionKind.RETURN, False),  # pop {pc}
        (0xE12FFF1E, Flow.ENDS, InstructionKind.RETURN, False),  # bx lr
        (0xE1A0F00E, Flow.ENDS, InstructionKind.RETURN, False),  # mov pc, lr
        (0xE12FFF13, Flow.COMPUTED, InstructionKind.JUMP, False),  # bx r3
        (0xE12FFF33, Flow.ENDS, InstructionKind.CALL, False),  # blx r3
        (0xE08FF183, Flow.COMPUTED, InstructionKind.JUMP, False),  # add pc, pc, r3, lsl #3
        (0xE320F000, Flow.NOP, InstructionKind.OTHER, False),
        (0xE1A00000, Flow.NOP, InstructionKind.OTHER, False),
        (0x13A00001, Flow.PLAIN, InstructionKind.OTHER, True),  # movne r0, #1
        (0xF5D0F000, Flow.PLAIN, InstructionKind.OTHER, False),  # pld [r0]
        (0xF57FF05B, Flow.REFUSED, InstructionKind.OTHER, False),  # dmb ish
        (0xF10C0080, Flow.REFUSED, InstructionKind.OTHER, False),  # cpsid i
        (0xE1903F9F, Flow.REFUSED, InstructionKind.OTHER, False),  # ldrex r3, [r0]
        (0xEE1D3F70, Flow.REFUSED, InstructionKind.OTHER, False),  # mrc p15
        (0xE121F003, Flow.REFUSED, InstructionKind.OTHER, False),  # msr cpsr_c, r3
        (0xE7F001F2, Flow.ENDS, InstructionKind.OTHER, False),  # BUG()
        (0xEF000000, Flow.ENDS, InstructionKind.OTHER, False),  # svc
        (0xE1B0F00E, Flow.ENDS, InstructionKind.OTHER, False),  # movs pc, lr
        (0xE8FD8001, Flow.ENDS, InstructionKind.OTHER, False),  # ldm sp!, {r0, pc}^
    ],
)
def test_an_instruction(word: int, flow: Flow, kind: InstructionKind, conditional: bool) -> None:
    (found,) = decoded(word)
    assert (found.flow, found.kind, found.is_conditional) == (flow, kind, conditional)


@pytest.mark.parametrize(
    ("word", "target", "kind"),
    [
        (0xEA000002, 0x10, InstructionKind.JUMP),
        (0x1AFFFFFE, 0, InstructionKind.CONDITIONAL),
        (0xEBFFFFFD, -4, InstructionKind.CALL),
        (0xFB000000, 0xA, InstructionKind.CALL),  # blx to Thumb, at an odd halfword
    ],
)
def test_a_branch_target(word: int, target: int, kind: InstructionKind) -> None:
    (found,) = decoded(word)
    assert (found.target, found.kind, found.flow) == (target, kind, Flow.ENDS)


def test_words_that_a_function_loads_are_data() -> None:
    # ldr r0, [pc, #4]; bx lr; nop; the word that is loaded
    flows = [each.flow for each in decoded(0xE59F0004, 0xE12FFF1E, 0xE320F000, 0xE92D4010)]
    assert flows == [Flow.PLAIN, Flow.ENDS, Flow.NOP, Flow.UNKNOWN]
    assert decode_arm.instruction_starts(struct.pack("<4I", 0xE59F0004, 0xE12FFF1E, 0xE320F000, 0)) == [0, 4, 8]


def test_a_jump_table_is_data() -> None:
    # cmp r1, #1; ldrls pc, [pc, r1, lsl #2]; b; two entries; bx lr
    flows = [each.flow for each in decoded(0xE3510001, 0x979FF101, 0xEA000002, 0xC0303728, 0xC03036FC, 0xE12FFF1E)]
    assert flows == [Flow.PLAIN, Flow.COMPUTED, Flow.ENDS, Flow.UNKNOWN, Flow.UNKNOWN, Flow.ENDS]


def test_instructions_before_an_exclusive_store() -> None:
    # ldrex r3, [r0]; add r3, r3, r1; strex r2, r3, [r0]; teq r2, #0
    flows = [each.flow for each in decoded(0xE1903F9F, 0xE0833001, 0xE1802F93, 0xE3320000)]
    assert flows == [Flow.REFUSED, Flow.EXCLUSIVE, Flow.REFUSED, Flow.PLAIN]


def test_a_veneer_is_a_stub() -> None:
    # bx lr; ldr pc, [pc, #-4]; its word; ldr pc, [pc, #56]
    code = struct.pack("<4I", 0xE12FFF1E, 0xE51FF004, 0xC0312A2C, 0xE59FF038)
    assert decode_arm.stub_ranges(code) == [(4, 12), (12, 16)]


def test_a_word_at_a_constant_address_is_read() -> None:
    # movw r3, #0x5678; movt r3, #0xc123; ldr r0, [r3, #8]; ldr r1, [r0]
    code = struct.pack("<4I", 0xE3053678, 0xE34C3123, 0xE5930008, 0xE5901000)
    assert decode_arm.addresses_of_words_read(code, 0xC0300000) == {0xC1235680}


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (0xE50D0040, ""),  # str r0, [sp, #-64]
        (0xE50D0044, BELOW_STACK),  # str r0, [sp, #-68]
        (0xE78D0001, BELOW_STACK),  # str r0, [sp, r1]
        (0xE780000D, BELOW_STACK),  # str r0, [r0, sp]
        (0xE14D04F4, BELOW_STACK),  # strd r0, [sp, #-68]
        (0xE18D00F2, BELOW_STACK),  # strd r0, [sp, r2]
        (0xE52D0044, BELOW_STACK),  # str r0, [sp, #-68]!
        (0xE40D0044, ""),  # str r0, [sp], #-68
        (0xE79D0001, ""),  # ldr r0, [sp, r1]
        (0xE4B00004, NOT_STEPPED),  # ldrt
        (0xE1500000, ""),  # cmp
        (0xE1B0F00E, NOT_STEPPED),  # movs pc, lr
        (0xE000029F, NOT_STEPPED),  # a multiplication of the program counter
        (0xE6BF0070, ""),  # sxth
        (0xE7E00050, ""),  # ubfx
        (0xE320F014, NOT_STEPPED),  # csdb
        (0xE320F002, ""),  # wfe
        (0xF5D0F000, ""),  # pld
        (0xF7D0F001, ""),  # pld, register
        (0xF57FF04F, NOT_STEPPED),  # dsb
        (0x07F001F8, NOT_STEPPED),  # the breakpoint itself
    ],
)
def test_a_refused_probe(word: int, reason: str) -> None:
    assert refusal_reason(word) == reason


def test_branches_agree_with_capstone() -> None:
    """On branches, calls and returns in random bytes, the second decoder gives the same target and condition."""
    other = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM)
    other.detail = True
    source, tried = random.Random(3), 0
    while tried < 2000:
        word = source.getrandbits(28) & 0x01FFFFFF | 0x0A000000 | source.randrange(15) << 28
        seen = next(other.disasm(struct.pack("<I", word), 0x1000))
        (found,) = decoded(word)
        assert found.target is not None
        assert (found.target + 0x1000) & 0xFFFFFFFF == seen.operands[-1].imm & 0xFFFFFFFF
        assert found.is_conditional == (seen.cc != arm_const.ARM_CC_AL)
        tried += 1
