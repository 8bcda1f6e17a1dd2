"""Decodes the flow of control of RISC-V instructions of four bytes and of two (extension C), for 64 bits.

Sources: "The RISC-V Instruction Set Manual, Volume I", chapters 2, 8 and 16; arch/riscv/include/asm/insn.h, 6.12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.landing.code.exclusive_ranges import exclusive_ranges
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.riscv_kprobe_rules import instruction_size, refusal_reason

_HALF, _WORD = 2, 4
_RA = 1
_NOP, _C_NOP, _C_ZERO = 0x00000013, 0x0001, 0x0000
# -fpatchable-function-entry=4 makes four C.NOP, and the kernel writes two NOP over them at boot, before the first
# kprobe can be registered (ftrace_init_nop(), arch/riscv/kernel/ftrace.c, 6.12).
_ENTRY = _C_NOP.to_bytes(_HALF, "little") * 4
# Opcodes: bits 0 to 6 of an instruction of four bytes.
_BRANCH, _JALR, _JAL, _SYSTEM, _FENCE, _AUIPC, _AMO = 0x63, 0x67, 0x6F, 0x73, 0x0F, 0x17, 0x2F
_PLAIN = frozenset(
    {0x03, 0x07, 0x13, 0x17, 0x1B, 0x23, 0x27, 0x2F, 0x33, 0x37, 0x3B, 0x43, 0x47, 0x4B, 0x4F, 0x53, 0x57}
)
# EBREAK, SRET, MRET: the next instruction does not run after them.
_LEAVES_SYSTEM = frozenset({0x00100073, 0x10200073, 0x30200073})
# Bits 27 to 31 of LR and SC.
_LR, _SC = 2, 3
# An SC is searched for in this many instructions after its LR. A loop of the two has at most 16 instructions if it is
# guaranteed to end (chapter 8.3).
_LONGEST_LOOP = 16
# Entries of a module's .plt: AUIPC t0; LD t1, distance(t0); JR t1 (emit_plt_entry(), arch/riscv/include/asm/module.h).
_PLT = ((0x00000297, 0xFFF), (0x0002B303, 0xFFFFF), (0x00030067, 0xFFFFFFFF))


def decode(code: bytes) -> list[Instruction]:
    """Decode a function; an incomplete last instruction is ignored.

    The nops at its start that ftrace patches are the two of four bytes that a booted kernel has. A call or a jump by
    two instructions (AUIPC and JALR) has its target in the second.
    """
    found: list[Instruction] = []
    words: list[int] = []
    for offset, size, word in _words(code):
        found.append(_four_bytes(offset, word, words[-1:]) if size == _WORD else _two_bytes(offset, word))
        words.append(word)
    for first, last in exclusive_ranges(words, _loads_reserved, _stores_conditionally):
        if last - first < _LONGEST_LOOP:
            for number in range(first, last + 1):
                found[number] = found[number]._replace(flow=Flow.EXCLUSIVE)
    return found


def instruction_starts(code: bytes) -> list[int]:
    """The offset of every instruction."""
    return [offset for offset, _, _ in _words(code)]


def stub_ranges(code: bytes) -> list[tuple[int, int]]:
    """Start and end of each entry of a module's .plt."""
    found = list(_words(code))
    return [
        (each[0][0], each[2][0] + _WORD)
        for each in zip(found, found[1:], found[2:], strict=False)
        if all(
            size == _WORD and word & mask == value for (_, size, word), (value, mask) in zip(each, _PLT, strict=True)
        )
    ]


def _words(code: bytes) -> Iterator[tuple[int, int, int]]:
    """Offset, size and value of each instruction."""
    offset = 0
    if code.startswith(_ENTRY):
        yield 0, _WORD, _NOP
        yield _WORD, _WORD, _NOP
        offset = len(_ENTRY)
    while offset + _HALF <= len(code):
        size = instruction_size(code[offset])
        if offset + size > len(code):
            return
        yield offset, size, int.from_bytes(code[offset : offset + size], "little")
        offset += size


def _loads_reserved(word: int) -> bool:
    return word & 0x7F == _AMO and word >> 27 == _LR


def _stores_conditionally(word: int) -> bool:
    return word & 0x7F == _AMO and word >> 27 == _SC


def _four_bytes(offset: int, word: int, before: Sequence[int]) -> Instruction:
    opcode, target = word & 0x7F, None
    if word == _NOP:
        return Instruction(offset, _WORD, Flow.NOP, is_padding=True)
    if opcode == _BRANCH:
        return Instruction(offset, _WORD, Flow.ENDS, offset + _branch_distance(word), kind=InstructionKind.CONDITIONAL)
    if opcode == _JAL:
        kind = InstructionKind.CALL if word >> 7 & 0x1F else InstructionKind.JUMP
        return Instruction(offset, _WORD, Flow.ENDS, offset + _jump_distance(word), kind=kind)
    if opcode == _JALR:
        base = word >> 15 & 0x1F
        if before and before[0] & 0x7F == _AUIPC and before[0] >> 7 & 0x1F == base:
            target = offset - _WORD + _signed(before[0] >> 12, 20) * 0x1000 + _signed(word >> 20, 12)
        return _through_register(offset, _WORD, base, word >> 7 & 0x1F, target)
    if opcode == _SYSTEM and word in _LEAVES_SYSTEM:
        return Instruction(offset, _WORD, Flow.ENDS)
    if refusal_reason(word):
        return Instruction(offset, _WORD, Flow.REFUSED)
    return Instruction(offset, _WORD, Flow.PLAIN if opcode in _PLAIN else Flow.UNKNOWN)


def _through_register(offset: int, size: int, base: int, link: int, target: int | None) -> Instruction:
    """JALR, C.JR and C.JALR: a call, a return, or a jump; its target is known if AUIPC computed it."""
    if link:
        return Instruction(offset, size, Flow.ENDS, target, kind=InstructionKind.CALL)
    if base == _RA:
        return Instruction(offset, size, Flow.ENDS, kind=InstructionKind.RETURN)
    return Instruction(offset, size, Flow.COMPUTED if target is None else Flow.ENDS, target, kind=InstructionKind.JUMP)


def _two_bytes(offset: int, half: int) -> Instruction:
    column, row = half & 3, half >> 13
    if half == _C_ZERO:  # defined to be illegal
        return Instruction(offset, _HALF, Flow.ENDS, is_padding=True)
    if half == _C_NOP:
        return Instruction(offset, _HALF, Flow.NOP, is_padding=True)
    if column == 1 and row == 0b101:  # C.J
        return Instruction(offset, _HALF, Flow.ENDS, offset + _short_jump(half), kind=InstructionKind.JUMP)
    if column == 1 and row in (0b110, 0b111):  # C.BEQZ, C.BNEZ
        return Instruction(offset, _HALF, Flow.ENDS, offset + _short_branch(half), kind=InstructionKind.CONDITIONAL)
    if column == 2 and row == 0b100 and not half >> 2 & 0x1F:  # the second operand is no register
        base, links = half >> 7 & 0x1F, half >> 12 & 1
        if base:
            return _through_register(offset, _HALF, base, _RA if links else 0, None)
        return Instruction(offset, _HALF, Flow.ENDS if links else Flow.UNKNOWN)  # C.EBREAK
    return Instruction(offset, _HALF, Flow.REFUSED if refusal_reason(half) else Flow.PLAIN)


def _signed(field: int, bits: int) -> int:
    return field - (1 << bits) if field >> (bits - 1) else field


def _gather(word: int, bits: int, *pieces: tuple[int, int, int]) -> int:
    """A signed distance of `bits` bits; each piece has its place in the instruction, its width, its place in it."""
    found = 0
    for source, width, place in pieces:
        found |= (word >> source & (1 << width) - 1) << place
    return _signed(found, bits)


def _branch_distance(word: int) -> int:
    return _gather(word, 13, (8, 4, 1), (25, 6, 5), (7, 1, 11), (31, 1, 12))


def _jump_distance(word: int) -> int:
    return _gather(word, 21, (21, 10, 1), (20, 1, 11), (12, 8, 12), (31, 1, 20))


def _short_jump(half: int) -> int:
    return _gather(half, 12, (3, 3, 1), (11, 1, 4), (2, 1, 5), (7, 1, 6), (6, 1, 7), (9, 2, 8), (8, 1, 10), (12, 1, 11))


def _short_branch(half: int) -> int:
    return _gather(half, 9, (3, 2, 1), (10, 2, 3), (2, 1, 5), (5, 2, 6), (12, 1, 8))
