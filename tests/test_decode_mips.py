"""MIPS instructions are classified as the kernel and the CPU treat them: flow, target, delay slots, refused probes."""

from __future__ import annotations

import errno
import random
import struct

import capstone
import pytest

from harness.landing.code import decode_mips
from harness.landing.code.instruction import Flow, InstructionKind
from harness.landing.code.mips_kprobe_rules import has_delay_slot
from harness.landing.sites.rules_mips import refusal_big_endian, refusal_little_endian

NOP, JR_RA, MOVE, JAL, LL, SC = 0, 0x03E00008, 0x03E00825, 0x0C045BC8, 0xC0850080, 0xE0830080
STATIC_BRANCH = 0x10000001


def packed(*words: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}{len(words)}I", *words)


@pytest.mark.parametrize(
    ("word", "flow", "kind", "target"),
    [
        (0x67BDFFF0, Flow.PLAIN, InstructionKind.OTHER, None),  # daddiu sp,sp,-16
        (MOVE, Flow.PLAIN, InstructionKind.OTHER, None),
        (NOP, Flow.PLAIN, InstructionKind.OTHER, None),
        (STATIC_BRANCH, Flow.NOP, InstructionKind.OTHER, 8),  # b .+8
        (0x10000004, Flow.ENDS, InstructionKind.JUMP, 20),  # b .+20
        (0x1000FFFE, Flow.ENDS, InstructionKind.JUMP, -4),
        (0x1060FFFC, Flow.ENDS, InstructionKind.CONDITIONAL, -12),  # beqz v1
        (0x14400002, Flow.ENDS, InstructionKind.CONDITIONAL, 12),  # bnez v0
        (0x50400002, Flow.ENDS, InstructionKind.ANNULLING, 12),  # beqzl v0
        (0x04420002, Flow.ENDS, InstructionKind.ANNULLING, 12),  # bltzl v0
        (0x45030002, Flow.ENDS, InstructionKind.ANNULLING, 12),  # bc1tl
        (0x041C0002, Flow.ENDS, InstructionKind.CONDITIONAL, 12),  # bposge32
        (0x04400002, Flow.ENDS, InstructionKind.CONDITIONAL, 12),  # bltz v0
        (0x04110002, Flow.ENDS, InstructionKind.CALL, 12),  # bal
        (0x18000002, Flow.ENDS, InstructionKind.JUMP, 12),  # blez $0
        (0x45010002, Flow.ENDS, InstructionKind.CONDITIONAL, 12),  # bc1t
        (0x44020000, Flow.ENDS, InstructionKind.CONDITIONAL, None),  # mfc1: the kernel takes it for a branch
        (JAL, Flow.ENDS, InstructionKind.CALL, None),
        (0x08045BC8, Flow.ENDS, InstructionKind.JUMP, None),  # j
        (JR_RA, Flow.ENDS, InstructionKind.RETURN, None),
        (0x00400008, Flow.COMPUTED, InstructionKind.JUMP, None),  # jr v0
        (0x0040F809, Flow.ENDS, InstructionKind.CALL, None),  # jalr v0
        (0x0000000C, Flow.ENDS, InstructionKind.OTHER, None),  # syscall
        (0x000080CD, Flow.ENDS, InstructionKind.OTHER, None),  # break 515
        (0x00000336, Flow.PLAIN, InstructionKind.OTHER, None),  # tne $0,$0,12
        (0x42000018, Flow.ENDS, InstructionKind.OTHER, None),  # eret
        (LL, Flow.REFUSED, InstructionKind.OTHER, None),
        (SC, Flow.REFUSED, InstructionKind.OTHER, None),
        (0xD0850080, Flow.REFUSED, InstructionKind.OTHER, None),  # lld
        (0xF0830080, Flow.REFUSED, InstructionKind.OTHER, None),  # scd
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_instruction(
    word: int, flow: Flow, kind: InstructionKind, target: int | None, order: decode_mips.Order
) -> None:
    (found,) = decode_mips.decode(packed(word, order=order), order)
    assert (found.flow, found.kind, found.target, found.size) == (flow, kind, target, 4)
    assert found.is_padding == (word == NOP)


def test_a_delay_slot_is_refused_except_that_of_a_static_branch() -> None:
    code = packed(JR_RA, MOVE, STATIC_BRANCH, NOP, STATIC_BRANCH, MOVE)
    assert [each.flow for each in decode_mips.decode(code, "<")] == [
        Flow.ENDS,
        Flow.REFUSED,
        Flow.NOP,
        Flow.UNKNOWN,
        Flow.NOP,
        Flow.REFUSED,
    ]


def test_no_store_succeeds_after_a_probe_between_its_load_and_itself() -> None:
    found = decode_mips.decode(packed(SC, MOVE, LL, MOVE, SC, MOVE, LL, MOVE), "<")
    assert [each.offset for each in found if each.flow is Flow.EXCLUSIVE] == [12]


def test_a_jump_goes_to_an_address_in_the_region_of_its_delay_slot() -> None:
    code = packed(MOVE, JAL, NOP)
    targets = decode_mips.targets_of_jumps_to_addresses(code, 0xFFFFFFFF80FEBE58, "<")
    assert {offset: hex(0xFFFFFFFF80FEBE58 + distance) for offset, distance in targets.items()} == {
        4: "0xffffffff80116f20"
    }
    assert decode_mips.targets_of_jumps_to_addresses(packed(JAL), 0x8FFFFFFC, "<") == {0: 0x90116F20 - 0x8FFFFFFC}


def test_words_are_read_through_the_halves_of_their_address() -> None:
    lui, ld, load_of_high = 0x3C028129, 0xDC426CE8, 0xDC438CE8  # lui v0; ld v0,27880(v0); ld v1,-29464(v0)
    assert decode_mips.addresses_of_words_read(packed(lui, ld), 0, "<") == {0xFFFFFFFF81296CE8}
    assert decode_mips.addresses_of_words_read(packed(lui, load_of_high), 0, "<") == {0xFFFFFFFF81288CE8}
    added = packed(lui, 0x64430010, 0xDC640008)  # daddiu v1,v0,16; ld a0,8(v1)
    assert decode_mips.addresses_of_words_read(added, 0, "<") == {0xFFFFFFFF81290018}
    overwritten = packed(lui, 0x00A01025, ld)  # move v0,a1
    assert decode_mips.addresses_of_words_read(overwritten, 0, "<") == set()
    assert decode_mips.addresses_of_words_read(packed(ld), 0, "<") == set()


def test_refused_are_atomics_and_delay_slots() -> None:
    for rule, order in ((refusal_little_endian, "<"), (refusal_big_endian, ">")):
        code = packed(MOVE, JR_RA, MOVE, LL, order=order)
        assert [rule(code, offset, (6, 1))[0] for offset in (0, 4, 8, 12)] == [0, 0, errno.EINVAL, errno.EINVAL]
    assert refusal_little_endian(packed(JR_RA, MOVE), 4, (6, 1)) == (errno.EINVAL, "delay slot of a branch")
    assert refusal_little_endian(packed(LL), 0, (6, 1)) == (errno.EINVAL, "ll or sc")


def test_branches_are_capstones() -> None:
    """Of any word that capstone knows, what it calls a branch, and the branch's target, agree."""
    noise = random.Random(5)
    for order, mode in (("<", capstone.CS_MODE_LITTLE_ENDIAN), (">", capstone.CS_MODE_BIG_ENDIAN)):
        capstones = capstone.Cs(capstone.CS_ARCH_MIPS, capstone.CS_MODE_MIPS64 | mode)
        capstones.detail = True
        checked = others = 0
        for _ in range(20000):
            opcode = noise.choice((0, 1, 2, 3, 4, 5, 6, 7, 20, 21, noise.randrange(64)))
            word = opcode << 26 | noise.getrandbits(26)
            if opcode == 0:
                word &= ~0x3F | noise.choice((8, 9, noise.randrange(64)))
            for each in capstones.disasm(packed(word, order=order), 0x10000000):
                (found,) = decode_mips.decode(packed(word, order=order), "<" if order == "<" else ">")
                leaves = capstone.CS_GRP_JUMP in each.groups or capstone.CS_GRP_CALL in each.groups
                if opcode in (0x10, 0x11, 0x12, 0x13, 0x1C, 0x1E, 0x1F, 0x32, 0x3A, 0x36, 0x3E):
                    continue  # Coprocessors and extensions; the kernel takes all of coprocessor 1 for branches.
                others += not leaves
                if leaves or has_delay_slot(word):
                    checked += 1
                    assert found.flow in (Flow.ENDS, Flow.COMPUTED, Flow.NOP), (each.mnemonic, each.op_str, hex(word))
                    if found.target is not None:
                        target = (0x10000000 + found.target) & 0xFFFFFFFFFFFFFFFF
                        assert f"{target:#x}" in each.op_str, (each.mnemonic, each.op_str, hex(word))
        assert checked > 4000
        assert others > 1000
