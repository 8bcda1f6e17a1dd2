"""RISC-V instructions of both sizes are classified as the kernel and the CPU treat them."""

from __future__ import annotations

import random
import struct

import capstone
import pytest

from harness.landing.code import decode_riscv
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.riscv_kprobe_rules import NOT_STEPPED, refusal_reason


def packed(*words: int) -> bytes:
    return b"".join(struct.pack("<I" if word & 3 == 3 else "<H", word) for word in words)


def decoded(*words: int) -> list[Instruction]:
    return decode_riscv.decode(packed(*words))


@pytest.mark.parametrize(
    ("word", "flow", "kind"),
    [
        (0x1141, Flow.PLAIN, InstructionKind.OTHER),  # c.addi sp, -16
        (0xE406, Flow.PLAIN, InstructionKind.OTHER),  # c.sdsp ra, 8(sp)
        (0x852E, Flow.PLAIN, InstructionKind.OTHER),  # c.mv a0, a1
        (0x952E, Flow.PLAIN, InstructionKind.OTHER),  # c.add a0, a1
        (0x8082, Flow.ENDS, InstructionKind.RETURN),  # c.jr ra
        (0x8502, Flow.COMPUTED, InstructionKind.JUMP),  # c.jr a0
        (0x9502, Flow.ENDS, InstructionKind.CALL),  # c.jalr a0
        (0x9002, Flow.ENDS, InstructionKind.OTHER),  # c.ebreak
        (0x2505, Flow.PLAIN, InstructionKind.OTHER),  # c.addiw a0, 1
        (0x0001, Flow.NOP, InstructionKind.OTHER),  # c.nop
        (0x0000, Flow.ENDS, InstructionKind.OTHER),  # illegal
        (0x8002, Flow.UNKNOWN, InstructionKind.OTHER),  # c.jr zero, reserved
        (0x00000013, Flow.NOP, InstructionKind.OTHER),
        (0x00008067, Flow.ENDS, InstructionKind.RETURN),  # ret
        (0x00050067, Flow.COMPUTED, InstructionKind.JUMP),  # jr a0
        (0x000500E7, Flow.ENDS, InstructionKind.CALL),  # jalr a0
        (0x0015051B, Flow.PLAIN, InstructionKind.OTHER),  # addiw a0, a0, 1
        (0x00000517, Flow.PLAIN, InstructionKind.OTHER),  # auipc a0, 0
        (0x00B5202F, Flow.PLAIN, InstructionKind.OTHER),  # amoadd.w zero, a1, (a0)
        (0x0FF0000F, Flow.REFUSED, InstructionKind.OTHER),  # fence
        (0x100027F3, Flow.REFUSED, InstructionKind.OTHER),  # csrr a5, sstatus
        (0x00000073, Flow.REFUSED, InstructionKind.OTHER),  # ecall
        (0x10500073, Flow.REFUSED, InstructionKind.OTHER),  # wfi
        (0x00100073, Flow.ENDS, InstructionKind.OTHER),  # ebreak
        (0x10200073, Flow.ENDS, InstructionKind.OTHER),  # sret
        (0x0000000B, Flow.UNKNOWN, InstructionKind.OTHER),  # an instruction of a vendor
    ],
)
def test_an_instruction(word: int, flow: Flow, kind: InstructionKind) -> None:
    (found,) = decoded(word)
    assert (found.flow, found.kind, found.size) == (flow, kind, 4 if word & 3 == 3 else 2)


def test_a_function_starts_with_the_nops_that_the_kernel_writes() -> None:
    code = packed(0x0001, 0x0001, 0x0001, 0x0001, 0x1141)
    assert [(each.offset, each.size) for each in decode_riscv.decode(code)] == [(0, 4), (4, 4), (8, 2)]
    assert decode_riscv.instruction_starts(code) == [0, 4, 8]
    assert [each.size for each in decoded(0x1141, 0x0001, 0x0001, 0x0001, 0x0001)] == [2] * 5


def test_a_call_by_two_instructions_has_its_target() -> None:
    # auipc ra, 0x12; jalr ra, -16(ra); auipc t1, 0xfffff; jr 8(t1)
    found = decoded(0x00012097, 0xFF0080E7, 0xFFFFF317, 0x00830067)
    assert [each.target for each in found] == [None, 0x12000 - 16, None, 8 - 0x1000 + 8]
    assert [each.kind for each in found[1::2]] == [InstructionKind.CALL, InstructionKind.JUMP]
    assert found[3].flow is Flow.ENDS


def test_a_jump_through_another_register_has_no_target() -> None:
    # auipc t1, 0; jr t2
    assert decoded(0x00000317, 0x00038067)[1].target is None


def test_instructions_of_an_exclusive_loop() -> None:
    # lr.w a5, (a0); bne a5, a1, +12; sc.w a4, a2, (a0); bnez a4; ret
    flows = [each.flow for each in decoded(0x100527AF, 0x00B79663, 0x18C5272F, 0xFF75, 0x8082)]
    assert flows == [Flow.EXCLUSIVE] * 3 + [Flow.ENDS] * 2


def test_an_exclusive_load_without_a_store_is_plain() -> None:
    assert [each.flow for each in decoded(0x100527AF, 0x8082)] == [Flow.PLAIN, Flow.ENDS]


def test_an_entry_of_a_modules_plt_is_a_stub() -> None:
    # ret; auipc t0, 1; ld t1, 16(t0); jr t1
    code = packed(0x8082, 0x00001297, 0x0102B303, 0x00030067)
    assert decode_riscv.stub_ranges(code) == [(2, 14)]
    assert decode_riscv.stub_ranges(packed(0x8082, 0x00001297, 0x0102B303, 0x00028067)) == []


def test_an_incomplete_instruction_is_ignored() -> None:
    assert [each.offset for each in decode_riscv.decode(packed(0x1141) + b"\x13\x05")] == [0]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (0x2505, ""),
        (0x0015051B, ""),
        (0x0FF0000F, NOT_STEPPED),
        (0x0000100F, NOT_STEPPED),  # fence.i
        (0x9002, NOT_STEPPED),
        (0x9502, ""),
    ],
)
def test_a_refused_probe(word: int, reason: str) -> None:
    assert refusal_reason(word) == reason


def test_branches_agree_with_capstone() -> None:
    """On branches, jumps and calls in random bytes, the second decoder gives the same size and target."""
    other = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)
    other.detail = True
    source, tried = random.Random(3), 0
    while tried < 3000:
        bits = source.getrandbits(32)
        word = source.choice(
            [
                bits & ~0x7F | 0x6F,
                bits & ~0x7F | 0x63,
                bits & 0x1FFC | 0xA001,
                bits & 0x1FFC | 0xC001,
                bits & 0x1FFC | 0xE001,
            ]
        )
        seen = next(other.disasm(packed(word), 0x1000), None)
        if seen is None:  # a branch with a reserved condition
            continue
        (found,) = decoded(word)
        assert (found.size, found.target) == (seen.size, seen.operands[-1].imm), seen
        tried += 1


def test_sizes_and_starts_agree_with_capstone() -> None:
    other = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)
    code = packed(0x1141, 0xE406, 0x00012097, 0xFF0080E7, 0x60A2, 0x0141, 0x8082)
    assert decode_riscv.instruction_starts(code) == [each.address for each in other.disasm(code, 0)]
