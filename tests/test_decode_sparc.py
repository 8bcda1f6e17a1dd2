"""SPARC V9 instructions are classified as the CPU treats them: flow, target, delay slots that run or not."""

from __future__ import annotations

import random
import struct

import capstone
import pytest
from decoder_reference import compare

from harness.core.architecture import DecoderKind
from harness.landing.code import decode_sparc
from harness.landing.code.instruction import Flow, InstructionKind

NOP, RETL, RETURN, RET, CALL_8 = 0x01000000, 0x81C3E008, 0x81CFE008, 0x81C7E008, 0x40000002
SAVE, ADD, ILLTRAP = 0x9DE3BF50, 0x82006001, 0
BASE = 1 << 44


def packed(*words: int) -> bytes:
    return struct.pack(f">{len(words)}I", *words)


WORDS = [
    (SAVE, Flow.PLAIN, InstructionKind.OTHER, None),
    (ADD, Flow.PLAIN, InstructionKind.OTHER, None),
    (0x03000038, Flow.PLAIN, InstructionKind.OTHER, None),  # sethi %hi(0xe000), %g1
    (0xC25A2008, Flow.PLAIN, InstructionKind.OTHER, None),  # ldx [%o0 + 8], %g1
    (0xC3F20002, Flow.PLAIN, InstructionKind.OTHER, None),  # casx [%o0], %g2, %g1
    (NOP, Flow.NOP, InstructionKind.OTHER, None),
    (CALL_8, Flow.ENDS, InstructionKind.CALL, 8),
    (0x7FFFFFFF, Flow.ENDS, InstructionKind.CALL, -4),
    (0x9FC08000, Flow.ENDS, InstructionKind.CALL, None),  # call %g2
    (0x10680007, Flow.ENDS, InstructionKind.JUMP, 28),  # ba,pt %xcc
    (0x10800004, Flow.ENDS, InstructionKind.JUMP, 16),  # ba
    (0x30BFFFFE, Flow.ENDS, InstructionKind.LONE_JUMP, -8),  # ba,a
    (0x30680003, Flow.ENDS, InstructionKind.LONE_JUMP, 12),  # ba,a,pt %xcc
    (0x12600017, Flow.ENDS, InstructionKind.CONDITIONAL, 92),  # bne,pn %xcc
    (0x026FFFF9, Flow.ENDS, InstructionKind.CONDITIONAL, -28),  # be,pt %xcc
    (0x38480002, Flow.ENDS, InstructionKind.ANNULLING, 8),  # bgu,a,pt %icc
    (0x32800004, Flow.ENDS, InstructionKind.ANNULLING, 16),  # bne,a
    (0x0AC8C003, Flow.ENDS, InstructionKind.CONDITIONAL_ON_REGISTER, 12),  # brnz,pt %g3
    (0x02F23FFE, Flow.ENDS, InstructionKind.CONDITIONAL_ON_REGISTER, -8),  # brz,pn %o0
    (0x2AC8C003, Flow.ENDS, InstructionKind.ANNULLING, 12),  # brnz,a,pt %g3
    (RETL, Flow.ENDS, InstructionKind.RETURN, None),
    (RET, Flow.ENDS, InstructionKind.RETURN, None),
    (RETURN, Flow.ENDS, InstructionKind.RETURN, None),
    (0x81C04000, Flow.COMPUTED, InstructionKind.JUMP, None),  # jmp %g1
    (0x91D02005, Flow.ENDS, InstructionKind.OTHER, None),  # ta 5
    (0x83F00000, Flow.ENDS, InstructionKind.OTHER, None),  # retry
    (ILLTRAP, Flow.ENDS, InstructionKind.OTHER, None),
]


@pytest.mark.parametrize(("word", "flow", "kind", "target"), WORDS, ids=[f"{each[0]:08x}" for each in WORDS])
def test_flow_kind_and_target_of_an_instruction(
    word: int, flow: Flow, kind: InstructionKind, target: int | None
) -> None:
    (found,) = decode_sparc.decode(packed(word))
    assert (found.flow, found.kind, found.target, found.size) == (flow, kind, target, 4)
    assert found.is_padding == (word in (0, NOP, 0x30680003))


def test_capstone_decodes_the_same_words_alike() -> None:
    compared = compare(DecoderKind.SPARC, packed(*[word for word, *_ in WORDS]))
    assert (compared.known, compared.disagreements) == (len(WORDS), [])


@pytest.mark.parametrize("branch", [CALL_8, 0x10680007, 0x38480002, 0x0AC8C003, RETL, RETURN])
def test_the_instruction_after_a_branch_is_in_its_delay_slot(branch: int) -> None:
    slot = decode_sparc.decode(packed(branch, ADD))[1]
    assert (slot.flow, slot.kind) == (Flow.PLAIN, InstructionKind.DELAY_SLOT)


@pytest.mark.parametrize("before", [ADD, NOP, 0x30680003])
def test_the_instruction_after_no_branch_is_in_no_delay_slot(before: int) -> None:
    assert decode_sparc.decode(packed(before, ADD))[1].kind is InstructionKind.OTHER


def test_the_instruction_after_a_delay_slot_is_in_none() -> None:
    kinds = [each.kind for each in decode_sparc.decode(packed(RETL, ADD, ADD))]
    assert kinds == [InstructionKind.RETURN, InstructionKind.DELAY_SLOT, InstructionKind.OTHER]


def test_branches_are_capstones() -> None:
    """Of any word that capstone knows, what it calls a direct branch, its target and its annul bit agree."""
    noise = random.Random(6)
    capstones = capstone.Cs(capstone.CS_ARCH_SPARC, capstone.CS_MODE_BIG_ENDIAN | capstone.CS_MODE_V9)
    checked = 0
    for _ in range(20000):
        # Branches and calls as often as all others.
        word = noise.choice((0, 0, 1, 2, 3)) << 30 | noise.getrandbits(30)
        for each in capstones.disasm(packed(word), BASE):
            (found,) = decode_sparc.decode(packed(word))
            mnemonic, _, flags = each.mnemonic.partition(",")
            address = each.op_str.rpartition(", ")[2]
            branches = mnemonic.startswith(("b", "fb", "call")) and address.startswith("0x")
            assert (found.target is not None) == branches, (each.mnemonic, each.op_str, hex(word))
            if found.target is not None:
                checked += 1
                assert int(address, 16) == BASE + found.target, (each.mnemonic, each.op_str)
                annuls = found.kind in (InstructionKind.ANNULLING, InstructionKind.LONE_JUMP)
                assert ("a" in flags.split(",")) == annuls, (each.mnemonic, each.op_str, hex(word))
    assert checked > 4000
