"""Decodes the flow of control of SPARC V9 instructions: fixed width, with a delay slot that a branch may annul.

Source: "The SPARC Architecture Manual, Version 9", appendices A and E.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from harness.landing.code.instruction import Flow, Instruction, InstructionKind

_WORD = 4
_NOP = 0x01000000  # sethi 0,%g0
# The first two bits: branches and sethi, call, arithmetic and jumps.
_BRANCHES, _CALL, _ARITHMETIC = 0, 1, 2
# Bits 22 to 24 of a branch or a sethi.
_ILLTRAP, _BPCC, _BICC, _BPR, _FBPFCC, _FBFCC = 0, 1, 2, 3, 5, 6
_BITS_OF_DISTANCE = {_BPCC: 19, _BICC: 22, _FBPFCC: 19, _FBFCC: 22}
_ALWAYS, _NEVER = 8, 0
_ANNUL = 1 << 29
# Bits 19 to 24 of an arithmetic instruction or a jump.
_JMPL, _RETURN, _TRAP, _DONE_RETRY = 0x38, 0x39, 0x3A, 0x3E
_LINK = 15  # %o7
# jmpl %i7+8 or %o7+8, and return %i7+8: rs1, then i and simm13.
_RETURN_ADDRESSES = frozenset({31 << 14 | 1 << 13 | 8, 15 << 14 | 1 << 13 | 8})
_ADDRESS_BITS = (1 << 19) - 1
# ba,a,pt %xcc with a positive distance: the assembler begins the padding between functions with it
# (sparc_handle_align(), gas/config/tc-sparc.c, binutils 2.40).
_OVER_PADDING, _OVER_PADDING_BITS = 0x30680000, 0xFFFC0000
_WITH_DELAY_SLOT = frozenset(InstructionKind) - {
    InstructionKind.OTHER,
    InstructionKind.LONE_JUMP,
    InstructionKind.DELAY_SLOT,
}


def decode(code: bytes) -> list[Instruction]:
    """Decode every word of a function as an instruction; an incomplete last word is ignored."""
    words = struct.unpack_from(f">{len(code) // _WORD}I", code)
    found = [_instruction(number * _WORD, word) for number, word in enumerate(words)]
    for number, (branch, slot) in enumerate(pairwise(found), 1):
        if branch.kind in _WITH_DELAY_SLOT and slot.kind is InstructionKind.OTHER:
            found[number] = slot._replace(kind=InstructionKind.DELAY_SLOT)
    return found


def _instruction(offset: int, word: int) -> Instruction:
    if word == _NOP:
        return Instruction(offset, _WORD, Flow.NOP, is_padding=True)
    operation = word >> 30
    if operation == _CALL:
        return Instruction(offset, _WORD, Flow.ENDS, offset + _distance(word, 30), kind=InstructionKind.CALL)
    if operation == _BRANCHES:
        return _branch(offset, word)
    if operation == _ARITHMETIC:
        return _jump(offset, word)
    return Instruction(offset, _WORD, Flow.PLAIN)


def _branch(offset: int, word: int) -> Instruction:
    form, condition = word >> 22 & 7, word >> 25 & 0xF
    if form == _ILLTRAP:
        return Instruction(offset, _WORD, Flow.ENDS, is_padding=not word)
    if form == _BPR:
        distance = _signed((word >> 20 & 3) << 14 | word & 0x3FFF, 16) * _WORD
        kind = InstructionKind.ANNULLING if word & _ANNUL else InstructionKind.CONDITIONAL_ON_REGISTER
        return Instruction(offset, _WORD, Flow.ENDS, offset + distance, kind=kind)
    if form not in _BITS_OF_DISTANCE:
        return Instruction(offset, _WORD, Flow.PLAIN)
    kind = InstructionKind.JUMP if condition in (_ALWAYS, _NEVER) else InstructionKind.CONDITIONAL
    if word & _ANNUL:
        kind = InstructionKind.LONE_JUMP if condition in (_ALWAYS, _NEVER) else InstructionKind.ANNULLING
    target = offset + _distance(word, _BITS_OF_DISTANCE[form])
    padding = word & _OVER_PADDING_BITS == _OVER_PADDING
    return Instruction(offset, _WORD, Flow.ENDS, target, kind=kind, is_padding=padding)


def _jump(offset: int, word: int) -> Instruction:
    form, target = word >> 19 & 0x3F, word >> 25 & 0x1F
    if form == _RETURN or (form == _JMPL and not target and word & _ADDRESS_BITS in _RETURN_ADDRESSES):
        return Instruction(offset, _WORD, Flow.ENDS, kind=InstructionKind.RETURN)
    if form == _JMPL and target == _LINK:
        return Instruction(offset, _WORD, Flow.ENDS, kind=InstructionKind.CALL)
    if form == _JMPL:
        return Instruction(offset, _WORD, Flow.COMPUTED, kind=InstructionKind.JUMP)
    return Instruction(offset, _WORD, Flow.ENDS if form in (_TRAP, _DONE_RETRY) else Flow.PLAIN)


def _distance(word: int, bits: int) -> int:
    return _signed(word & ((1 << bits) - 1), bits) * _WORD


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
