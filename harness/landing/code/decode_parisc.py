"""Decodes the flow of control of PA-RISC 1.1 and 2.0 instructions: fixed width, identified by the first six bits.

Sources: "PA-RISC 1.1 Architecture and Instruction Set Reference Manual", appendix C; "PA-RISC 2.0 Architecture",
chapter 6; for the encoding of displacements, arch/parisc/kernel/module.c (reassemble_12, _17, _22; Linux 6.1).
capstone 5 does not support PA-RISC; the tests compare this decoder with capstone 6.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from harness.landing.code.instruction import Flow, Instruction, InstructionKind

_WORD = 4
_DELAY = 8  # A displacement counts from the instruction after the delay slot.

_SYSTEM = 0x00
_BREAK, _RFI, _RFIR = 0x00, 0x60, 0x65
# COMBT, COMIBT, COMBF, COMIBF, CMPB (double), ADDBT, ADDIBT, ADDBF, ADDIBF, CMPB (double), BVB, BB, MOVB, MOVIB, CMPIB
_SHORT_BRANCHES = frozenset({0x20, 0x21, 0x22, 0x23, 0x27, 0x28, 0x29, 0x2A, 0x2B, 0x2F, 0x30, 0x31, 0x32, 0x33, 0x3B})
_BRANCH_LINK_EXTERNAL = 0x39  # BLE
_EXTERNAL_BRANCHES = frozenset({0x38, _BRANCH_LINK_EXTERNAL})  # BE, BLE
_BRANCH = 0x3A
# BV and BVE have one form; BVE,L has another, and like BL_LONG it links to the return pointer.
_BL, _GATE, _BLR, _BL_LONG, _BV, _BVE_LINK = 0, 1, 2, 5, 6, 7
_RETURN_POINTER = 2
_NULLIFY = 2  # The bit of a branch that nullifies its delay slot.
# LDIL with target %r1, and BE with base %r1: the opcode, followed by the register.
_LDIL_R1, _BE_R1 = 0x08 << 5 | 1, 0x38 << 5 | 1
# The last words of the three stubs of 64-bit modules: BVE to %r1 and LDD of %dp, or BVE,N to %r1 (get_stub()). The word
# before the first two loads %r1 from the descriptor at %dp, the word before the last one has %r1 as base and target.
_LDD_DP_R1, _BVE_R1, _LDD_DP_DP, _BVE_N_R1 = 0x53610020, 0xE820D000, 0x537B0030, 0xE820D002
_LDD_R1_R1, _LDO_R1_R1 = 0x50210020, 0x0D << 10 | 1 << 5 | 1
_NOP = 0x08000240

# Instructions that nullify the next one if a condition holds, by the position of the condition field.
# ADDIT (0x2C) has one, too, but traps if it holds.
_ARITHMETIC = frozenset({0x02, 0x24, 0x25, 0x2D})  # register forms; COMICLR, SUBI, ADDI
# Shift, extract, deposit; their double forms. Those of 0x3e shift and permute halves of a word (PERMH, HSHL, HSHR).
_SHIFTS = frozenset({0x34, 0x35, 0x36, 0x3C, 0x3D, 0x3F})
# SPOPn and COPR, of which FTEST is one, may nullify if their bit "n" is set. Those of major opcode 0x0e never do.
_COPROCESSORS = frozenset({0x04, 0x0C})
_MAY_NULLIFY = 0x20


def decode(code: bytes) -> list[Instruction]:
    """Decode every word of a function as an instruction; an incomplete last word is ignored."""
    words = struct.unpack_from(f">{len(code) // _WORD}I", code)
    return [_instruction(number * _WORD, word) for number, word in enumerate(words)]


def stub_ranges(code: bytes) -> list[tuple[int, int]]:
    """Start and end offset of each stub: `ldil L'there,%r1`, then a branch to `R'there(%sr4,%r1)`.

    The linker makes such stubs for far calls (hppa_build_one_stub(), bfd/elf32-hppa.c, binutils 2.40), and so does the
    module loader (get_stub(), arch/parisc/kernel/module.c, 6.1). For 64-bit modules the loader makes longer ones.
    """
    words = [word for (word,) in struct.iter_unpack(">I", code[: len(code) // _WORD * _WORD])]
    short = [
        (number * _WORD, (number + 2) * _WORD)
        for number, (first, second) in enumerate(pairwise(words))
        if first >> 21 == _LDIL_R1 and second >> 21 == _BE_R1
    ]
    wide = [
        (number * _WORD, (number + size) * _WORD)
        for number in range(len(words))
        if (size := _wide_stub_words(words[number : number + 4]))
    ]
    return sorted([*short, *wide])


def _wide_stub_words(words: list[int]) -> int:
    """Return how many words a stub of a 64-bit module has that begins with these; 0 if none does."""
    if words[1:] == [_LDD_DP_R1, _BVE_R1, _LDD_DP_DP]:
        return 4
    if words[0] >> 21 != _LDIL_R1 or len(words) < 3 or words[1] >> 16 != _LDO_R1_R1:
        return 0
    if words[2] == _BVE_N_R1:
        return 3
    return 4 if words[2:] == [_LDD_R1_R1, _BVE_N_R1] else 0


def _instruction(offset: int, word: int) -> Instruction:
    major = word >> 26
    if major in _SHORT_BRANCHES:
        return _branch(offset, _assemble_12(word), InstructionKind.CONDITIONAL)
    if major == _BRANCH:
        return _long_branch(offset, word)
    if major in _EXTERNAL_BRANCHES:
        return _branch(offset, None, InstructionKind.CALL if major == _BRANCH_LINK_EXTERNAL else InstructionKind.JUMP)
    if major == _SYSTEM and (word >> 5) & 0xFF in (_BREAK, _RFI, _RFIR):
        return Instruction(offset, _WORD, Flow.ENDS, is_padding=not word)
    if _nullifies(major, word):
        return Instruction(offset, _WORD, Flow.SKIPS, kind=InstructionKind.SKIP)
    return Instruction(offset, _WORD, Flow.PLAIN, is_padding=word == _NOP)


def _nullifies(major: int, word: int) -> bool:
    """True if the instruction nullifies the next one on a condition other than "never"."""
    if major in _ARITHMETIC:
        return bool((word >> 12) & 0xF)
    if major in _SHIFTS:
        return bool((word >> 13) & 0x7)
    return major in _COPROCESSORS and bool(word & _MAY_NULLIFY)


def _long_branch(offset: int, word: int) -> Instruction:
    """Decode major opcode 0x3a: B and B,L of two lengths, GATE, and the branches through a register."""
    form = (word >> 13) & 0x7
    index, base = (word >> 16) & 0x1F, (word >> 21) & 0x1F
    if form in (_BL, _GATE):
        return _branch(offset, _assemble_17(word), InstructionKind.CALL if base else InstructionKind.JUMP)
    if form == _BVE_LINK:
        return _branch(offset, None, InstructionKind.CALL)
    if form == _BL_LONG:  # It always links, with the return pointer as the link register.
        return _branch(offset, _assemble_22(word), InstructionKind.CALL)
    if form == _BV and index == 0 and base == _RETURN_POINTER:
        return Instruction(
            offset, _WORD, Flow.ENDS, kind=InstructionKind.LONE_RETURN if word & _NULLIFY else InstructionKind.RETURN
        )
    return Instruction(offset, _WORD, Flow.COMPUTED, kind=InstructionKind.JUMP)


def _branch(offset: int, displacement: int | None, kind: InstructionKind) -> Instruction:
    target = None if displacement is None else offset + _DELAY + displacement * _WORD
    return Instruction(offset, _WORD, Flow.ENDS, target, kind=kind)


def _assemble_12(word: int) -> int:
    return _signed((word & 1) << 11 | _middle(word), 12)


def _assemble_17(word: int) -> int:
    return _signed((word & 1) << 16 | ((word >> 16) & 0x1F) << 11 | _middle(word), 17)


def _assemble_22(word: int) -> int:
    return _signed((word & 1) << 21 | ((word >> 21) & 0x1F) << 16 | ((word >> 16) & 0x1F) << 11 | _middle(word), 22)


def _middle(word: int) -> int:
    """The eleven bits that every displacement has; the field has the lowest of them first."""
    field = (word >> 2) & 0x7FF
    return (field & 1) << 10 | field >> 1


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
