"""The decoder of SuperH: flows, delay slots, constants, and what the kernel takes for another instruction."""

from __future__ import annotations

import errno
import random
import struct

import capstone
import pytest
from decoder_reference import compare

from harness.core.architecture import DecoderKind
from harness.landing.code import decode_superh
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.sites.rules_superh import refusal_errno_and_reason

NOP, ADD, OR, RTS, RTE, JSR, JMP, BRAF, TRAPA = 0x0009, 0x332C, 0x212B, 0x000B, 0x002B, 0x410B, 0x412B, 0x0123, 0xC33A
BRA_NEXT, BT, BF, BT_S = 0xA000, 0x8900, 0x8B00, 0x8D00
LOAD_LONG, LOAD_WORD, MOVA = 0xD100, 0x9100, 0xC700
BASE = 0x8C001000

WORDS = [
    (ADD, Flow.PLAIN, InstructionKind.OTHER, None),
    (NOP, Flow.PLAIN, InstructionKind.OTHER, None),
    (0x001B, Flow.PLAIN, InstructionKind.TAKEN_FOR_RETURN, None),  # sleep
    (OR, Flow.PLAIN, InstructionKind.TAKEN_FOR_RETURN, None),
    (0x512B, Flow.PLAIN, InstructionKind.TAKEN_FOR_RETURN, None),  # mov.l @(44,r2),r1
    (0x411B, Flow.PLAIN, InstructionKind.TAKEN_FOR_RETURN, None),  # tas.b @r1
    (0x512A, Flow.PLAIN, InstructionKind.OTHER, None),  # mov.l @(40,r2),r1
    (0x402E, Flow.PLAIN, InstructionKind.OTHER, None),  # ldc r0,vbr
    (0x8903, Flow.ENDS, InstructionKind.CONDITIONAL, 10),  # bt
    (0x8BFD, Flow.ENDS, InstructionKind.BACKWARD_CONDITIONAL, -2),  # bf
    (0x8D03, Flow.ENDS, InstructionKind.CONDITIONAL, 10),  # bt/s
    (0x8FFD, Flow.ENDS, InstructionKind.BACKWARD_CONDITIONAL, -2),  # bf/s
    (0x8F0B, Flow.ENDS, InstructionKind.CONDITIONAL, 26),
    (0xA003, Flow.ENDS, InstructionKind.JUMP, 10),  # bra
    (0xAFF9, Flow.ENDS, InstructionKind.JUMP, -10),
    (0xB003, Flow.ENDS, InstructionKind.CALL, 10),  # bsr
    (0xBFFB, Flow.ENDS, InstructionKind.CALL, -6),
    (0x0103, Flow.ENDS, InstructionKind.CALL, None),  # bsrf r1
    (JSR, Flow.ENDS, InstructionKind.CALL, None),
    (JMP, Flow.COMPUTED, InstructionKind.JUMP, None),
    (BRAF, Flow.COMPUTED, InstructionKind.JUMP, None),
    (RTS, Flow.ENDS, InstructionKind.RETURN, None),
    (RTE, Flow.ENDS, InstructionKind.OTHER, None),
    (TRAPA, Flow.ENDS, InstructionKind.OTHER, None),
]


def packed(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}H", *words)


def decoded(*words: int) -> list[Instruction]:
    return decode_superh.decode(packed(*words))


def flows(*words: int) -> list[Flow]:
    return [each.flow for each in decoded(*words)]


@pytest.mark.parametrize(("word", "flow", "kind", "target"), WORDS)
def test_a_word(word: int, flow: Flow, kind: InstructionKind, target: int | None) -> None:
    (found,) = decoded(word)
    assert (found.offset, found.size, found.flow, found.kind, found.target) == (0, 2, flow, kind, target)
    assert found.is_padding == (word == NOP)


def test_the_same_words_for_capstone() -> None:
    compared = compare(DecoderKind.SUPERH, packed(*[word for word, *_ in WORDS]))
    assert (compared.known, compared.disagreements) == (len(WORDS), [])


@pytest.mark.parametrize("branch", [BRA_NEXT, 0xB000, BT_S, 0x8F00, 0x0103, JSR])
def test_the_slot_after_a_branch(branch: int) -> None:
    slot = decoded(branch, OR, ADD)[1]
    assert (slot.flow, slot.kind) == (Flow.PLAIN, InstructionKind.DELAY_SLOT)


@pytest.mark.parametrize("leaving", [RTS, JMP, BRAF])
def test_the_slot_after_what_leaves(leaving: int) -> None:
    found = decoded(leaving, ADD, ADD)
    assert [each.kind for each in found[1:]] == [InstructionKind.DELAY_SLOT, InstructionKind.OTHER]
    assert [each.flow for each in found[1:]] == [Flow.PLAIN, Flow.UNKNOWN]


@pytest.mark.parametrize("before", [ADD, BT, BF])
def test_no_slot(before: int) -> None:
    assert decoded(before, ADD)[1].kind is InstructionKind.OTHER


def test_constants_are_data() -> None:
    assert flows(LOAD_LONG | 1, JSR, NOP, NOP, OR, RTS) == [
        *(Flow.PLAIN, Flow.ENDS, Flow.PLAIN, Flow.PLAIN),
        *(Flow.UNKNOWN, Flow.UNKNOWN),
    ]
    # The address of the load is rounded down to a multiple of four, that of a constant of two bytes is not.
    assert flows(ADD, LOAD_LONG | 0, RTS, NOP, ADD) == [
        Flow.PLAIN,
        Flow.PLAIN,
        Flow.UNKNOWN,
        Flow.UNKNOWN,
        Flow.UNKNOWN,
    ]
    assert flows(LOAD_WORD | 1, RTS, NOP, OR, ADD)[3:] == [Flow.UNKNOWN, Flow.UNKNOWN]
    assert flows(LOAD_WORD | 1, BT, ADD, OR, ADD)[2:] == [Flow.PLAIN, Flow.UNKNOWN, Flow.UNKNOWN]


def test_the_address_of_a_function_rounds_that_of_a_constant() -> None:
    code = packed(LOAD_LONG | 0, RTS, NOP, OR, OR)
    places = {
        address: [each.offset for each in decode_superh.decode(code, address) if each.flow is Flow.UNKNOWN]
        for address in (0x8C001000, 0x8C001002)
    }
    assert places == {0x8C001000: [4, 6, 8], 0x8C001002: [2, 4, 6, 8]}


def test_code_behind_constants_is_reached_by_a_branch() -> None:
    # bra over a constant and a word that nothing reaches
    assert flows(LOAD_LONG | 1, 0xA003, ADD, NOP, 0x1234, 0x5678, RTS, ADD) == [
        *(Flow.PLAIN, Flow.ENDS, Flow.PLAIN, Flow.UNKNOWN, Flow.UNKNOWN, Flow.UNKNOWN),
        *(Flow.ENDS, Flow.PLAIN),
    ]


def test_a_constant_before_code_is_no_branch() -> None:
    # bt over a constant that is the word of a return
    found = decoded(LOAD_WORD | 1, 0x8901, ADD, RTS, OR, ADD, RTS, NOP)
    assert [each.flow for each in found[2:7]] == [Flow.PLAIN, Flow.UNKNOWN, Flow.PLAIN, Flow.PLAIN, Flow.ENDS]
    assert found[4].kind is InstructionKind.TAKEN_FOR_RETURN


def test_code_behind_a_slot_that_is_a_target() -> None:
    # bt to the slot of bra, which goes back
    assert flows(0x8901, ADD, 0xAFFC, ADD, RTS, NOP, ADD) == [
        *(Flow.ENDS, Flow.PLAIN, Flow.ENDS, Flow.PLAIN, Flow.ENDS, Flow.PLAIN),
        Flow.UNKNOWN,
    ]


def test_a_slot_that_loads_a_constant() -> None:
    # bra to a call that never returns, with the load of what is behind it in the slot of bra
    assert flows(0xA001, LOAD_WORD | 2, NOP, JSR, NOP, OR)[1:] == [
        *(Flow.PLAIN, Flow.UNKNOWN, Flow.ENDS, Flow.PLAIN, Flow.UNKNOWN),
    ]


def test_a_branch_back_reaches_what_is_before_it() -> None:
    # bra to the last word, which goes back to what is behind bra's slot
    assert flows(0xA002, NOP, RTS, NOP, 0x8BFC, RTS, NOP) == [
        *(Flow.ENDS, Flow.PLAIN, Flow.ENDS, Flow.PLAIN),
        *(Flow.ENDS, Flow.ENDS, Flow.PLAIN),
    ]


def test_a_jump_to_a_constant_leaves_the_function() -> None:
    tail = (LOAD_LONG | 1, JMP, ADD, NOP, 0x1234, 0x8C00)
    assert flows(*tail)[1] is Flow.ENDS
    assert flows(LOAD_LONG | 1, 0x6112, *tail[1:])[2] is Flow.COMPUTED  # mov.l @r1,r1
    assert flows(LOAD_LONG | 1, 0x6312, *tail[1:])[2] is Flow.ENDS  # mov.l @r1,r3
    assert flows(0xD200, JMP, ADD, NOP)[1] is Flow.COMPUTED  # another register
    large = decode_superh.decode(packed(*tail) + bytes(4096))
    assert large[1].flow is Flow.COMPUTED


def test_starts_are_what_is_reached() -> None:
    code = packed(LOAD_LONG | 1, 0xA003, ADD, NOP, 0x1234, 0x5678, RTS, ADD)
    assert decode_superh.instruction_starts(code) == [0, 2, 4, 12, 14]


@pytest.mark.parametrize("word", [NOP, 0, 0x0900])
def test_padding_is_what_is_between_functions(word: int) -> None:
    assert all(each.is_padding for each in decoded(word, word, word))
    assert not decoded(ADD)[0].is_padding


def test_branches_are_capstones() -> None:
    """Of any word that capstone knows, a direct branch and its target agree."""
    noise = random.Random(7)
    capstones = capstone.Cs(capstone.CS_ARCH_SH, capstone.CS_MODE_SH4)
    checked = 0
    for _ in range(20000):
        # Branches and calls as often as all others.
        word = noise.choice((0x8, 0xA, 0xB, noise.getrandbits(4))) << 12 | noise.getrandbits(12)
        for each in capstones.disasm(packed(word), BASE):
            (found,) = decoded(word)
            branches = each.mnemonic in ("bt", "bf", "bt/s", "bf/s", "bra", "bsr")
            assert (found.target is not None) == branches, (each.mnemonic, each.op_str, hex(word))
            if found.target is not None:
                checked += 1
                assert int(each.op_str, 16) == BASE + found.target, (each.mnemonic, each.op_str)
    assert checked > 4000


def test_only_a_return_from_an_exception_is_refused() -> None:
    code = packed(ADD, RTE, NOP)
    assert [refusal_errno_and_reason(code, offset, (6, 1))[0] for offset in (0, 2, 4)] == [0, errno.EFAULT, 0]
    # Misaligned, as the kernel reads it.
    assert refusal_errno_and_reason(b"\x00" + packed(RTE), 1, (6, 1)) == (errno.EFAULT, "return from an exception")
