"""Decodes the flow of control of SH-4 instructions: two bytes each, with delay slots and with constants in the code.

Sources: "SH-4 Software Manual" (Renesas), chapters 9 and 10; arch/sh/kernel/kprobes.c, 6.1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from heapq import heappop, heappush

from harness.landing.code.instruction import Flow, Instruction, InstructionKind

_SIZE = 2
_NOP, _ZEROS, _RTS, _RTE = 0x0009, 0x0000, 0x000B, 0x002B
# Zeros are no instruction. The linker fills gaps with the bytes 00 09 (arch/sh/kernel/vmlinux.lds.S).
_PADDING = frozenset({_NOP, _ZEROS, 0x0900})
# Bits 12 to 15.
_LOAD_WORD, _LOAD_LONG, _BRA, _BSR = 0x9, 0xD, 0xA, 0xB
# Bits 8 to 15. `/s` has a delay slot.
_BT, _BF, _BT_S, _BF_S, _TRAPA = 0x89, 0x8B, 0x8D, 0x8F, 0xC3
# All bits but those of the register, which are 8 to 11.
_BSRF, _BRAF, _JSR, _JMP = 0x0003, 0x0023, 0x400B, 0x402B
# Bits 12 to 15 of instructions that may write the register of bits 8 to 11.
_WRITING = frozenset({0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x9, 0xE})
# The bits that OPCODE_RTS() of arch/sh/kernel/kprobes.c compares.
_LIKE_RTS, _LIKE_RTS_BITS = 0xB, 0xF
# The number of bytes that `bra` reaches in one direction.
_REACH_OF_BRANCHES = 4096
_OF_SLOTS = frozenset({InstructionKind.OTHER, InstructionKind.TAKEN_FOR_RETURN})
_ENDS_LINE = frozenset({InstructionKind.JUMP, InstructionKind.RETURN})


def decode(code: bytes, address: int = 0) -> list[Instruction]:
    """Decode every two bytes of a function, of whose address the last two bits count; an incomplete last is ignored.

    What no branch of the function reaches is UNKNOWN: constants, jump tables, and what only such a table reaches. An
    instruction that OPCODE_RTS() of the kernel takes for a return is TAKEN_FOR_RETURN, and a conditional branch
    whose distance it does not take for a negative number is BACKWARD_CONDITIONAL.
    """
    words = _words(code)
    reached = _reached(words, address)
    found = []
    for place, word in enumerate(words):
        each = _instruction(place, words)
        if place not in reached:
            each = Instruction(place * _SIZE, _SIZE, Flow.UNKNOWN, is_padding=word in _PADDING)
        elif each.kind in _OF_SLOTS and place and place - 1 in reached and _has_slot(words[place - 1]):
            each = each._replace(kind=InstructionKind.DELAY_SLOT)
        elif each.kind is InstructionKind.CONDITIONAL and each.target is not None and each.target < each.offset:
            each = each._replace(kind=InstructionKind.BACKWARD_CONDITIONAL)
        found.append(each)
    return found


def instruction_starts(code: bytes) -> list[int]:
    """The offset of each instruction that the function reaches."""
    return [place * _SIZE for place in sorted(_reached(_words(code), 0))]


def _words(code: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"<{len(code) // _SIZE}H", code)


def _reached(words: Sequence[int], address: int) -> set[int]:
    """The places that are reached from the first one, without those that hold constants."""
    walked: set[int] = set()
    slots: set[int] = set()
    data: set[int] = set()
    odd = address // _SIZE % 2
    ahead = [0]
    while ahead:
        # In the order of addresses, because an instruction before a constant loads it.
        place = heappop(ahead)
        while 0 <= place < len(words) and place not in walked and place not in data:
            walked.add(place)
            data |= _constant(place, words[place], odd)
            each = _instruction(place, words)
            if each.target is not None:
                heappush(ahead, each.target // _SIZE)
            place += 1
            if each.kind in _ENDS_LINE:
                # Its delay slot may be the target of another branch, and is not walked through yet.
                slots |= {place} & set(range(len(words)))
                data |= _constant(place, words[place], odd) if place in slots else set()
                break
    return (walked | slots) - data


def _constant(place: int, word: int, odd: int) -> set[int]:
    """The places of the constant that an instruction loads relative to its own address.

    For four bytes that is rounded down to a multiple of four, which place 0 is not if `odd` is 1.
    """
    if word >> 12 == _LOAD_WORD:
        return {place + 2 + (word & 0xFF)}
    if word >> 12 == _LOAD_LONG:
        first = (place + odd) // 2 * 2 - odd + 2 + 2 * (word & 0xFF)
        return {first, first + 1}
    return set()


def _has_slot(word: int) -> bool:
    without_register = word & 0xF0FF
    return (
        word >> 12 in (_BRA, _BSR)
        or word >> 8 in (_BT_S, _BF_S)
        or without_register in (_BSRF, _BRAF, _JSR, _JMP)
        or word in (_RTS, _RTE)
    )


def _instruction(place: int, words: Sequence[int]) -> Instruction:
    word, offset = words[place], place * _SIZE
    flow, target, kind = _leaving(place, words) or (Flow.PLAIN, None, InstructionKind.OTHER)
    if flow is Flow.PLAIN and word & _LIKE_RTS_BITS == _LIKE_RTS:
        kind = InstructionKind.TAKEN_FOR_RETURN
    return Instruction(offset, _SIZE, flow, target, is_padding=word in _PADDING, kind=kind)


def _leaving(place: int, words: Sequence[int]) -> tuple[Flow, int | None, InstructionKind] | None:
    """Flow, target and kind of an instruction after which the next one need not run; None for any other."""
    word, offset = words[place], place * _SIZE
    if word >> 8 in (_BT, _BF, _BT_S, _BF_S):
        return Flow.ENDS, offset + 4 + _SIZE * _signed(word & 0xFF, 8), InstructionKind.CONDITIONAL
    if word >> 12 in (_BRA, _BSR):
        kind = InstructionKind.CALL if word >> 12 == _BSR else InstructionKind.JUMP
        return Flow.ENDS, offset + 4 + _SIZE * _signed(word & 0xFFF, 12), kind
    if word & 0xF0FF in (_JSR, _BSRF):
        return Flow.ENDS, None, InstructionKind.CALL
    if word & 0xF0FF == _JMP and _loads_constant(place, words):
        return Flow.ENDS, None, InstructionKind.JUMP
    if word & 0xF0FF in (_JMP, _BRAF):
        return Flow.COMPUTED, None, InstructionKind.JUMP
    if word == _RTS:
        return Flow.ENDS, None, InstructionKind.RETURN
    if word in (_ZEROS, _RTE) or word >> 8 == _TRAPA:
        return Flow.ENDS, None, InstructionKind.OTHER
    return None


def _loads_constant(place: int, words: Sequence[int]) -> bool:
    """True if the register of a jump has a constant: the address of another function, in which this one ends.

    A function that is larger than a branch reaches may jump inside of itself so.
    """
    if len(words) * _SIZE > _REACH_OF_BRANCHES:
        return False
    register = words[place] >> 8 & 0xF
    written = (
        word >> 12
        for word in reversed(words[:place])
        if word >> 8 & 0xF == register and (word >> 12 == _LOAD_LONG or word >> 12 in _WRITING)
    )
    return next(written, None) == _LOAD_LONG


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
