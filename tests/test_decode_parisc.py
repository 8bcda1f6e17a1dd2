"""PA-RISC instructions are classified as the CPU treats them: flow, target, and the instructions that nullify."""

from __future__ import annotations

import struct

import pytest
from decoder_reference import compare, compare_kernel

from harness.core.architecture import DecoderKind
from harness.landing.code import decode_parisc
from harness.landing.code.instruction import Flow, InstructionKind


def packed(*words: int) -> bytes:
    return struct.pack(f">{len(words)}I", *words)


# Each has another major opcode, or a subopcode that matters.
WORDS = [
    (0x08000240, Flow.PLAIN, InstructionKind.OTHER, None),  # nop
    (0x081C2244, Flow.SKIPS, InstructionKind.SKIP, None),  # or,= ret0,r0,r4
    (0xE85F1FF5, Flow.ENDS, InstructionKind.CALL, 0),  # b,l .,rp
    (0xE8000010, Flow.ENDS, InstructionKind.JUMP, 16),  # b .+16
    (0xE840C000, Flow.ENDS, InstructionKind.RETURN, None),  # bv r0(rp)
    (0xE840C002, Flow.ENDS, InstructionKind.LONE_RETURN, None),  # bv,n r0(rp)
    (0xE820C002, Flow.COMPUTED, InstructionKind.JUMP, None),  # bv,n r0(r1)
    (0xE02025F2, Flow.ENDS, InstructionKind.JUMP, None),  # be,n 0x2f8(sr4,r1)
    (0xE6C02000, Flow.ENDS, InstructionKind.CALL, None),  # be,l 0(sr4,r22),sr0,r31
    (0x80602010, Flow.ENDS, InstructionKind.CONDITIONAL, 16),  # cmpb,= r0,r3,.+16
    (0x90402000, Flow.SKIPS, InstructionKind.SKIP, None),  # cmpiclr,= 0,rp,r0
    (0xD7F39A10, Flow.SKIPS, InstructionKind.SKIP, None),  # depw,z,tr
    (0xDA101B07, Flow.PLAIN, InstructionKind.OTHER, None),  # extrd,u,*: 64 bits, never
    (0x30002420, Flow.SKIPS, InstructionKind.SKIP, None),  # ftest
    (0x3AD75717, Flow.PLAIN, InstructionKind.OTHER, None),  # xmpyu: it nullifies nothing
    (0x00000000, Flow.ENDS, InstructionKind.OTHER, None),  # break 0,0
    (0x00000C00, Flow.ENDS, InstructionKind.OTHER, None),  # rfi
]


@pytest.mark.parametrize(("word", "flow", "kind", "target"), WORDS, ids=[f"{each[0]:08x}" for each in WORDS])
def test_an_instruction(word: int, flow: Flow, kind: InstructionKind, target: int | None) -> None:
    (found,) = decode_parisc.decode(packed(word))
    assert (found.flow, found.kind, found.target, found.size) == (flow, kind, target, 4)


def test_the_same_words_for_capstone() -> None:
    compared = compare(DecoderKind.PARISC, packed(*[word for word, *_ in WORDS]))
    assert (compared.known, compared.disagreements) == (len(WORDS), [])


@pytest.mark.slow
def test_every_word_of_a_kernel_for_capstone() -> None:
    """`./pinpoint test decoders` does the same for all VMs."""
    compared = compare_kernel("parisc")
    assert compared.known > 900_000
    assert (compared.disagreements, compared.unknown) == (
        [],
        ["00000138"],
    )  # toc_handler_size (arch/parisc/kernel/toc_asm.S)
