"""Decodes the flow of control of MIPS instructions up to release 5: fixed width, with branch delay slots.

Sources: "MIPS64 Architecture For Programmers", volume II; arch/mips/include/uapi/asm/inst.h, 6.1. microMIPS and MIPS16
are not decoded: the kernel refuses them where it probes.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Literal

from harness.landing.code.exclusive_ranges import exclusive_ranges
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.mips_kprobe_rules import has_delay_slot, loads_linked, stores_conditionally

_WORD = 4
_NOP = 0
_SPECIAL, _REGIMM, _J, _JAL, _BEQ, _COPROCESSOR_1 = 0, 1, 2, 3, 4, 0x11
_BLEZ = frozenset({6, 22})
_SHORT_BRANCHES = frozenset({4, 5, 6, 7, 20, 21, 22, 23})
# Branches that annul their delay slot if they are not taken ("likely" ones), by opcode, and by rt of REGIMM and of BC1.
_ANNULLING, _REGIMM_ANNULLING, _COPROCESSOR_ANNULLING = 0x10, 0x02, 0x02

_RETURN_POINTER = 31
_LINKS = 0x10  # The bit of a branch's rt field that stores the return address.
_ERET, _DERET = 0x42000018, 0x4200001F
_COPROCESSOR_BRANCH = 8  # rs of BC1F and BC1T.
# beq $0,$0,.+8: a static branch in the file, before the kernel has made it a nop or a jump (asm/jump_label.h, 6.1).
_STATIC_BRANCH = 0x10000001
_REGION = (1 << 28) - 1  # j and jal keep the upper bits of the address of their delay slot.
_LUI, _DADDIU, _LD, _SPECIAL_2 = 0x0F, 0x19, 0x37, 0x1C
_ADDRESS = (1 << 64) - 1

Order = Literal["<", ">"]


def decode(code: bytes, order: Order) -> list[Instruction]:
    """Decode every word of a function as an instruction; an incomplete last word is ignored.

    A delay slot is REFUSED, because the kernel reads the word before a probe (arch_prepare_kprobe()). The nop in the
    slot of a static branch is UNKNOWN: the kernel accepts a probe on it if it has made the branch a nop.
    """
    words = _words(code, order)
    found = [_instruction(number * _WORD, word) for number, word in enumerate(words)]
    for number, (before, word) in enumerate(pairwise(words), 1):
        if before == _STATIC_BRANCH and word == _NOP:
            found[number] = found[number]._replace(flow=Flow.UNKNOWN)
        elif has_delay_slot(before):
            found[number] = _in_delay_slot(found[number])
    # The kernel refuses a probe on the two themselves. A breakpoint between them ends in eret, which clears the bit
    # that sc tests.
    for first, last in exclusive_ranges(words, loads_linked, stores_conditionally):
        for number in range(first + 1, last):
            if found[number].flow is Flow.PLAIN:
                found[number] = found[number]._replace(flow=Flow.EXCLUSIVE)
    return found


def targets_of_jumps_to_addresses(code: bytes, address: int, order: Order) -> dict[int, int]:
    """Map the offset of each j and jal of a function at a link address to the distance of its target from there."""
    return {
        number * _WORD: ((address + (number + 1) * _WORD) & ~_REGION | (word & _REGION >> 2) << 2) - address
        for number, word in enumerate(_words(code, order))
        if word >> 26 in (_J, _JAL)
    }


def addresses_of_words_read(code: bytes, _address: int, order: Order) -> set[int]:
    """The addresses that a function reads as words of 64 bits by `lui` and `ld`, with or without `daddiu` between them.

    Instructions are followed in the order of their addresses, branches are not; a register that any other instruction
    may write is forgotten.
    """
    known: dict[int, int] = {}
    found = set()
    for word in _words(code, order):
        opcode, base, register = word >> 26, word >> 21 & 0x1F, word >> 16 & 0x1F
        low = (word & 0xFFFF) - (word >> 15 & 1) * 0x10000
        if opcode == _LD and base in known:
            found.add((known[base] + low) & _ADDRESS)
        value = None
        if opcode == _LUI:
            value = low << 16
        elif opcode == _DADDIU and base in known:
            value = known[base] + low
        # Instructions of registers write rd, most others rt; a store writes none, but is no loss.
        written = word >> 11 & 0x1F if opcode in (_SPECIAL, _SPECIAL_2) else register
        known.pop(written, None)
        if value is not None:
            known[register] = value
    return found


def _words(code: bytes, order: Order) -> tuple[int, ...]:
    return struct.unpack_from(f"{order}{len(code) // _WORD}I", code)


def _in_delay_slot(found: Instruction) -> Instruction:
    kind = InstructionKind.DELAY_SLOT if found.kind is InstructionKind.OTHER else found.kind
    return found._replace(flow=Flow.REFUSED, kind=kind)


def _instruction(offset: int, word: int) -> Instruction:
    if word == _STATIC_BRANCH:
        return Instruction(offset, _WORD, Flow.NOP, offset + 2 * _WORD)
    if loads_linked(word) or stores_conditionally(word):
        return Instruction(offset, _WORD, Flow.REFUSED)
    flow, target, kind = _leaving(offset, word) or (Flow.PLAIN, None, InstructionKind.OTHER)
    return Instruction(offset, _WORD, flow, target, is_padding=word == _NOP, kind=kind)


def _leaving(offset: int, word: int) -> tuple[Flow, int | None, InstructionKind] | None:
    """Flow, target and kind of an instruction after which the next one need not run; None for any other."""
    opcode, source, other = word >> 26, word >> 21 & 0x1F, word >> 16 & 0x1F
    if opcode == _SPECIAL:
        return _special(word, source)
    if opcode in (_J, _JAL):  # The target depends on the address.
        return Flow.ENDS, None, InstructionKind.CALL if opcode == _JAL else InstructionKind.JUMP
    target = offset + _WORD + _WORD * ((word & 0xFFFF) - (word >> 15 & 1) * 0x10000)
    if opcode in _SHORT_BRANCHES:
        always = (opcode == _BEQ and source == other) or (opcode in _BLEZ and not source)
        return Flow.ENDS, target, InstructionKind.JUMP if always else _conditional(opcode & _ANNULLING)
    if opcode == _REGIMM and has_delay_slot(word):
        calls = other & _LINKS and other < 28
        return Flow.ENDS, target, InstructionKind.CALL if calls else _conditional(other & _REGIMM_ANNULLING)
    if opcode == _COPROCESSOR_1:
        if source == _COPROCESSOR_BRANCH:
            return Flow.ENDS, target, _conditional(other & _COPROCESSOR_ANNULLING)
        return Flow.ENDS, None, InstructionKind.CONDITIONAL  # The kernel treats any other one as a branch, too.
    if word in (_ERET, _DERET):
        return Flow.ENDS, None, InstructionKind.OTHER
    return None


def _conditional(annuls: int) -> InstructionKind:
    return InstructionKind.ANNULLING if annuls else InstructionKind.CONDITIONAL


def _special(word: int, source: int) -> tuple[Flow, int | None, InstructionKind] | None:
    match word & 0x3F:
        case 8 if source == _RETURN_POINTER:
            return Flow.ENDS, None, InstructionKind.RETURN
        case 8:
            return Flow.COMPUTED, None, InstructionKind.JUMP
        case 9:
            return Flow.ENDS, None, InstructionKind.CALL
        case 12 | 13:  # syscall, break
            return Flow.ENDS, None, InstructionKind.OTHER
        case _:
            return None
