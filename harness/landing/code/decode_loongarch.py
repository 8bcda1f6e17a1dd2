"""Decodes the flow of control of 64-bit LoongArch instructions, which all have four bytes.

Sources: "LoongArch Reference Manual, Volume 1", chapter 2; arch/loongarch/include/asm/inst.h, 6.12.
"""

from __future__ import annotations

import struct

from harness.landing.code.exclusive_ranges import exclusive_ranges
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.loongarch_kprobe_rules import loads_linked, refusal_reason, stores_conditionally

_WORD = 4
_NOP, _ZEROS = 0x03400000, 0
_RA = 1
# Opcodes, bits 26 to 31. BEQ to BGEU compare two registers.
_BEQZ, _BNEZ, _BCEQZ, _JIRL, _B, _BL = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
_COMPARES = range(0x16, 0x1C)
# Bits 15 to 31 of BREAK, DBCL, SYSCALL, HVCL, and the whole of ERTN: the next instruction need not run after them.
_TRAPS, _ERTN = range(0x54, 0x58), 0x06483800
# Entries of a module's .plt: LU12I.W t1; LU32I.D t1; LU52I.D t1,t1; JIRL zero,t1 (emit_plt_entry(),
# arch/loongarch/include/asm/module.h).
PLT_ENTRY = ((0x1400000D, 0xFE00001F), (0x1600000D, 0xFE00001F), (0x030001AD, 0xFFC003FF), (0x4C0001A0, 0xFC0003FF))


def decode(code: bytes) -> list[Instruction]:
    """Decode every word of a function as an instruction; an incomplete last word is ignored."""
    words = _words(code)
    found = [_instruction(number * _WORD, word) for number, word in enumerate(words)]
    # The exception of a probe between them ends in ERTN, which clears the reservation (manual, 7.4.15, LLBCTL.KLO).
    for first, last in exclusive_ranges(words, loads_linked, stores_conditionally):
        for number in range(first + 1, last):
            if found[number].flow is Flow.PLAIN:
                found[number] = found[number]._replace(flow=Flow.EXCLUSIVE)
    return found


def stub_ranges(code: bytes) -> list[tuple[int, int]]:
    """Start and end of each entry of a module's .plt."""
    words = _words(code)
    return [
        (place * _WORD, (place + len(PLT_ENTRY)) * _WORD)
        for place in range(len(words) - len(PLT_ENTRY) + 1)
        if all(word & mask == value for word, (value, mask) in zip(words[place:], PLT_ENTRY, strict=False))
    ]


def _words(code: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"<{len(code) // _WORD}I", code)


def _instruction(offset: int, word: int) -> Instruction:
    opcode = word >> 26
    if word == _NOP:
        return Instruction(offset, _WORD, Flow.NOP, is_padding=True)
    if word in (_ZEROS, _ERTN) or word >> 15 in _TRAPS:
        return Instruction(offset, _WORD, Flow.ENDS, is_padding=word in (_ZEROS, _TRAPS[0] << 15))
    if opcode == _JIRL:
        return _through_register(offset, word)
    if opcode in (_B, _BL):
        target = offset + _distance(word, 10)
        return Instruction(
            offset, _WORD, Flow.ENDS, target, kind=InstructionKind.CALL if opcode == _BL else InstructionKind.JUMP
        )
    if opcode in (_BEQZ, _BNEZ, _BCEQZ):
        return Instruction(offset, _WORD, Flow.ENDS, offset + _distance(word, 5), kind=InstructionKind.CONDITIONAL)
    if opcode in _COMPARES:
        return Instruction(offset, _WORD, Flow.ENDS, offset + _distance(word, 0), kind=InstructionKind.CONDITIONAL)
    return Instruction(offset, _WORD, Flow.REFUSED if refusal_reason(word) else Flow.PLAIN)


def _through_register(offset: int, word: int) -> Instruction:
    """JIRL: a call, a return, or a jump."""
    link, base = word & 0x1F, word >> 5 & 0x1F
    if link:
        return Instruction(offset, _WORD, Flow.ENDS, kind=InstructionKind.CALL)
    if base == _RA and not word >> 10 & 0xFFFF:
        return Instruction(offset, _WORD, Flow.ENDS, kind=InstructionKind.RETURN)
    return Instruction(offset, _WORD, Flow.COMPUTED, kind=InstructionKind.JUMP)


def _distance(word: int, upper_bits: int) -> int:
    """The signed distance of a branch: 16 bits of words from bit 10 on, and the upper bits from bit 0 on."""
    words = (word & (1 << upper_bits) - 1) << 16 | word >> 10 & 0xFFFF
    sign = 1 << upper_bits + 15
    return _WORD * (words - ((words & sign) << 1))
