"""Decodes the flow of control of ARM instructions (not Thumb): fixed width, a condition in the upper four bits.

Sources: "ARM Architecture Reference Manual, ARMv7-A and ARMv7-R edition", chapter A5; arch/arm/probes/decode-arm.c,
6.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from harness.landing.code.arm_kprobe_rules import refusal_reason
from harness.landing.code.exclusive_ranges import exclusive_ranges
from harness.landing.code.instruction import Flow, Instruction, InstructionKind

_WORD = 4
# The program counter that an instruction reads is two instructions ahead.
_AHEAD = 8
_PC, _SP, _LR = 15, 13, 14
_UNCONDITIONAL, _ALWAYS = 0xF, 0xE
# NOP; MOV r0, r0, which the assembler writes for older CPUs; zeros, which the linker puts between functions.
_NOPS, _ZEROS = frozenset({0xE320F000, 0xE1A00000}), 0
_MASK_32 = (1 << 32) - 1
# LDR pc, [pc, #distance]: the form of an entry of a module's .plt and of the linker's veneers.
_LDR_PC, _LDR_PC_MASK, _LDR_ADDS = 0xE51FF000, 0xFF7FF000, 1 << 23
# The number of instructions before a jump by a table among which its limit is compared.
_COMPARED = 8


def decode(code: bytes) -> list[Instruction]:
    """Decode every word of a function as an instruction; an incomplete last word is ignored.

    A word that an instruction of the function loads relative to the program counter is data, and so is a jump table.
    """
    words = struct.unpack_from(f"<{len(code) // _WORD}I", code)
    data = set(_data(words))
    found = [
        Instruction(number * _WORD, _WORD, Flow.UNKNOWN) if number in data else _instruction(number * _WORD, word)
        for number, word in enumerate(words)
    ]
    for first, last in exclusive_ranges(words, _loads_exclusively, _stores_exclusively):
        for number in range(first + 1, last):
            found[number] = found[number]._replace(flow=Flow.EXCLUSIVE)
    return found


def instruction_starts(code: bytes) -> list[int]:
    """The offset of every word that is not data."""
    words = struct.unpack_from(f"<{len(code) // _WORD}I", code)
    data = set(_data(words))
    return [number * _WORD for number in range(len(words)) if number not in data]


def stub_ranges(code: bytes) -> list[tuple[int, int]]:
    """Start and end of each jump through a word: LDR pc, [pc, #distance].

    The linker makes such veneers, each with its word, and the module loader writes entries of .plt so
    (get_module_plt(), arch/arm/kernel/module-plts.c, 6.1).
    """
    words = struct.unpack_from(f"<{len(code) // _WORD}I", code)
    found = []
    for number, word in enumerate(words):
        if word & _LDR_PC_MASK == _LDR_PC:
            word_follows = _loaded_place(number * _WORD, word) == (number + 1) * _WORD
            found.append((number * _WORD, (number + 1 + word_follows) * _WORD))
    return found


def addresses_of_words_read(code: bytes, _address: int) -> set[int]:
    """The addresses that a function reads as words by LDR with a constant address, wherever the function is.

    MOVW and MOVT of a register, and loads of the function's own data, are followed in the order of addresses, branches
    are not.
    """
    known: dict[int, int] = {}
    found = set()
    words = struct.unpack_from(f"<{len(code) // _WORD}I", code)
    for number, word in enumerate(words):
        target = word >> 12 & 0xF
        constant = word >> 4 & 0xF000 | word & 0xFFF
        value = None
        if word >> 20 == 0xE30:  # MOVW
            value = constant
        elif word >> 20 == 0xE34:  # MOVT
            low = known.get(target)
            value = None if low is None else low & 0xFFFF | constant << 16
        elif word & 0x0F7F0000 == 0x051F0000:  # LDR of the function's own data
            place = _loaded_place(number * _WORD, word) // _WORD
            value = words[place] if 0 <= place < len(words) else None
        elif word & 0x0F700000 == 0x05100000:  # LDR with a constant distance, without write-back
            base = known.get(word >> 16 & 0xF)
            if base is not None:
                distance = word & 0xFFF if word & _LDR_ADDS else -(word & 0xFFF)
                found.add(base + distance & _MASK_32)
        if _writes_register(word):
            known.pop(target, None)
        if value is not None:
            known[target] = value
    return found


def _writes_register(word: int) -> bool:
    """True for data processing and loads, whose target is in bits 12 to 15."""
    return word & 0x0C000000 == 0 or word & 0x0C100000 == 0x04100000


def _loaded_place(offset: int, word: int) -> int:
    distance = word & 0xFFF
    return offset + _AHEAD + (distance if word & _LDR_ADDS else -distance)


def _data(words: Sequence[int]) -> Iterator[int]:
    """The numbers of the words that are data."""
    for number, word in enumerate(words):
        offset = number * _WORD
        sizes = 0
        place = 0
        if word & 0x0F3F0000 == 0x051F0000 and word >> 28 != _UNCONDITIONAL:  # LDR, LDRB
            place, sizes = _loaded_place(offset, word), 1
        elif word & 0x0F7F00D0 == 0x014F00D0 and word >> 28 != _UNCONDITIONAL:  # LDRD, LDRSB, LDRSH
            distance = word >> 4 & 0xF0 | word & 0xF
            place, sizes = offset + _AHEAD + (distance if word & _LDR_ADDS else -distance), 2
        elif word & 0x0FFFFFF0 == 0x079FF100:  # LDR pc, [pc, Rm, LSL #2]
            place, sizes = offset + _AHEAD, _table_length(words, number, word & 0xF)
        for each in range(place // _WORD, place // _WORD + sizes):
            if 0 <= each < len(words):
                yield each


def _table_length(words: Sequence[int], number: int, index: int) -> int:
    """The number of entries of a jump table, from the constant that its index was compared with; 0 if there is none."""
    for word in reversed(words[max(0, number - _COMPARED) : number]):
        if word & 0x0FF0F000 == 0x03500000 and word >> 16 & 0xF == index:  # CMP with a constant
            turn = (word >> 8 & 0xF) * 2
            value = word & 0xFF
            return ((value >> turn | value << (32 - turn)) & _MASK_32 if turn else value) + 1
    return 0


def _loads_exclusively(word: int) -> bool:
    return word & 0x0F9000F0 == 0x01900090


def _stores_exclusively(word: int) -> bool:
    return word & 0x0F9000F0 == 0x01800090


def _instruction(offset: int, word: int) -> Instruction:
    if word in _NOPS:
        return Instruction(offset, _WORD, Flow.NOP, is_padding=True)
    if word >> 28 == _UNCONDITIONAL:
        return _unconditional(offset, word)
    refused = bool(refusal_reason(word))
    plain = (Flow.REFUSED if refused else Flow.PLAIN, None, InstructionKind.OTHER)
    flow, target, kind = _leaving(offset, word) or plain
    if refused and flow is not Flow.REFUSED:  # a trap, or a return from an exception
        flow, target, kind = Flow.ENDS, None, InstructionKind.OTHER
    return Instruction(
        offset, _WORD, flow, target, is_padding=word == _ZEROS, kind=kind, is_conditional=word >> 28 != _ALWAYS
    )


def _unconditional(offset: int, word: int) -> Instruction:
    if word >> 25 == 0x7D:  # BLX, to Thumb
        half = word >> 23 & 2
        return Instruction(offset, _WORD, Flow.ENDS, _branch_target(offset, word) + half, kind=InstructionKind.CALL)
    if word & 0xFE500000 == 0xF8100000:  # RFE
        return Instruction(offset, _WORD, Flow.ENDS)
    return Instruction(offset, _WORD, Flow.REFUSED if refusal_reason(word) else Flow.PLAIN)


def _leaving(offset: int, word: int) -> tuple[Flow, int | None, InstructionKind] | None:
    """Flow, target and kind of an instruction after which the next one need not run; None for any other."""
    if word & 0x0E000000 == 0x0A000000:
        conditional = InstructionKind.JUMP if word >> 28 == _ALWAYS else InstructionKind.CONDITIONAL
        return Flow.ENDS, _branch_target(offset, word), InstructionKind.CALL if word >> 24 & 1 else conditional
    if word & 0x0FFFFFF0 == 0x012FFF30:  # BLX
        return Flow.ENDS, None, InstructionKind.CALL
    if word & 0x0FFFFFD0 == 0x012FFF10:  # BX, BXJ
        return _return_or_jump(word & 0xF == _LR)
    if word & 0x0E108000 == 0x08108000:  # LDM with pc
        return _return_or_jump(True)
    if word & 0x0C10F000 == 0x0410F000 and word & 0x02000010 != 0x02000010:  # LDR pc
        return _return_or_jump(word >> 16 & 0xF == _SP)
    if _is_data_processing(word) and word >> 12 & 0xF == _PC:
        return _return_or_jump(word & 0x0FFFFFFF == 0x01A0F00E)
    if word & 0x0F000000 == 0x0F000000 or word & 0x0FF000F0 in (0x07F000F0, 0x01200070, 0x01600070, 0x01400070):
        return Flow.ENDS, None, InstructionKind.OTHER  # SVC, UDF, BKPT, SMC, HVC
    return None


def _return_or_jump(returns: bool) -> tuple[Flow, int | None, InstructionKind]:
    if returns:
        return Flow.ENDS, None, InstructionKind.RETURN
    return Flow.COMPUTED, None, InstructionKind.JUMP


def _is_data_processing(word: int) -> bool:
    """True for data processing that writes a register, without MOVW and MOVT, multiplications and halfword loads."""
    if word & 0x0C000000 or word & 0x01800000 == 0x01000000:  # TST, TEQ, CMP, CMN; MSR, MRS, MOVW, MOVT, BX
        return False
    return bool(word & 0x02000000) or word & 0x90 != 0x90


def _branch_target(offset: int, word: int) -> int:
    distance = word & 0xFFFFFF
    return offset + _AHEAD + 4 * (distance - (1 << 24) if distance >> 23 else distance)
