"""Decodes the flow of control of 64-bit PowerPC instructions: fixed width, except for prefixed ones of two words.

Little-endian code has two entries of a function (ELFv2), big-endian code has a descriptor for each (ELFv1).

Sources: "Power ISA Version 3.1", book I, chapters 2 and 3; arch/powerpc/include/asm/ppc-opcode.h, 6.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from harness.landing.code.exclusive_ranges import exclusive_ranges
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.ppc64_kprobe_rules import is_prefix, refusal_reason

_WORD = 4
# ori r0,r0,0; ori r2,r2,0, with which the compiler aligns code and which nothing patches; zeros between functions.
_NOP, _ALIGNING_NOP, _ZEROS = 0x60000000, 0x60420000, 0
_TRAPS_ALWAYS = frozenset({0x7FE00008, 0x0FE00000})  # tw 31,0,0; twi 31,0,0
# stdu r1,d(r1); stdux r1,r1,rb. The kernel does their stores at the return from the trap (emulate_loadstore(),
# handle_stack_update(), arch/powerpc/lib/sstep.c, 6.1).
_STACK_STORES = ((0xFFFF0003, 0xF8210001), (0xFFFF07FE, 0x7C21016A))
# Opcodes, and extended opcodes of opcodes 19 and 31.
_CONDITIONAL_BRANCH, _SYSTEM_CALL, _BRANCH, _REGISTER_BRANCHES, _EXTENDED = 16, 17, 18, 19, 31
_TO_LINK, _TO_COUNT, _TO_TARGET = 16, 528, 560
_RETURNS_FROM_EXCEPTION = frozenset({18, 38, 39, 50, 51, 82, 274, 306})
# BO without a condition, and with one of the count register (book I, 2.4).
_ALWAYS = 0b10100
# lbarx, lharx, lwarx, ldarx, lqarx; stbcx., sthcx., stwcx., stdcx., stqcx.
_RESERVES = frozenset({52, 116, 20, 84, 276})
_STORES = frozenset({694, 726, 150, 214, 182})
# The code before a local entry: addis r2,r12 or lis r2, and addi r2,r2 (ppc_function_entry(), asm/code-patching.h,
# 6.1), and in a module's file ld r2,(r12) and add r2,r2,r12, which the loader replaces (R_PPC64_ENTRY, module_64.c).
_OF_REGISTERS = 0xFFFF0000
_SETS_TOC = frozenset({(0x3C4C0000, 0x38420000), (0x3C400000, 0x38420000), (0xE84C0000, 0x7C420000)})
LOCAL_ENTRY = 2 * _WORD
_LOADS_TOC = 0xE84CFFF8
# An entry of .stubs of a module: addis r11; addi r11; std r2,24(r1); ld r12,32(r11); mtctr r12; bctr, and a magic word
# (ppc64_stub_insns, struct ppc64_stub_entry, arch/powerpc/kernel/module_64.c, 6.1). That of ftrace begins with a load
# through r13 (stub_insns).
_STUB = (0x3D620000, 0x396B0000, 0xF8410018, 0xE98B0020, 0x7D8903A6, 0x4E800420)
_STUB_SIZE, _STUB_MAGIC, _STUB_MAGIC_AT = 40, 0x73747562, 28
# The same of ELFv1: std r2,40(r1), and ld r2,40(r11) in addition; the stub ends with a whole descriptor.
_STUB_V1 = (0x3D620000, 0x396B0000, 0xF8410028, 0xE98B0020, 0xE84B0028, 0x7D8903A6, 0x4E800420)
_STUB_V1_SIZE = 56


def decode_big_endian(code: bytes) -> list[Instruction]:
    """Decode as decode() does, but big-endian words, of functions with one entry."""
    return _decoded(_words(code, ">"))


def instruction_starts_big_endian(code: bytes) -> list[int]:
    """The offset of every instruction of big-endian code."""
    return [place * _WORD for place, _ in _places(_words(code, ">"))]


def stub_ranges_big_endian(code: bytes) -> list[tuple[int, int]]:
    """Start and end of each stub of ELFv1, as stub_ranges() returns those of ELFv2."""
    return _stubs(_words(code, ">"), _STUB_V1, _STUB_V1_SIZE)


def decode(code: bytes) -> list[Instruction]:
    """Decode every word of a function as an instruction; an incomplete last word is ignored.

    The second instruction of a function with a local entry is conditional: it runs only if the function is called by
    its global entry, through a pointer or from another module.
    """
    found = _decoded(_words(code))
    if local_entry_offset(code):
        found[1] = found[1]._replace(is_conditional=True)
    return found


def _decoded(words: Sequence[int]) -> list[Instruction]:
    found = [_instruction(place * _WORD, words[place], size) for place, size in _places(words)]
    # The exception of a probe loses the reservation, also on the load and on the store themselves: the kernel emulates
    # the first before it returns to the second (fast_interrupt_return, arch/powerpc/kernel/interrupt_64.S, 6.1).
    for first, last in exclusive_ranges(words, _loads_reserved, _stores_conditionally):
        found = [
            each._replace(flow=Flow.EXCLUSIVE) if first <= each.offset // _WORD <= last else each for each in found
        ]
    return found


def instruction_starts(code: bytes) -> list[int]:
    """The offset of every instruction."""
    return [place * _WORD for place, _ in _places(_words(code))]


def local_entry_offset(code: bytes) -> int:
    """Return the offset of a function's local entry: 8 if the function begins by computing its r2, else 0."""
    if len(code) < LOCAL_ENTRY:
        return 0
    first, second = struct.unpack_from("<II", code)
    return LOCAL_ENTRY if (first & _OF_REGISTERS, second & _OF_REGISTERS) in _SETS_TOC else 0


def data_size_before(code: bytes) -> int:
    """Return the size of the word before a function of a module from which its first instruction loads: 8 or 0.

    It is the distance to the module's TOC (`ld r2,-8(r12)`, -mcmodel=large).
    """
    first = int.from_bytes(code[:_WORD], "little")
    return LOCAL_ENTRY if first == _LOADS_TOC and local_entry_offset(code) else 0


def stub_ranges(code: bytes) -> list[tuple[int, int]]:
    """Start and end of each stub that the module loader has made for a far call, with its magic word and address."""
    return _stubs(_words(code), _STUB, _STUB_SIZE)


def _stubs(words: Sequence[int], stub: Sequence[int], size: int) -> list[tuple[int, int]]:
    masks = (_OF_REGISTERS, _OF_REGISTERS, *(0xFFFFFFFF,) * (len(stub) - 2))
    found = []
    for place in range(len(words) - _STUB_MAGIC_AT // _WORD):
        jump = zip(words[place:], stub, masks, strict=False)
        if words[place + _STUB_MAGIC_AT // _WORD] == _STUB_MAGIC or all(word & mask == own for word, own, mask in jump):
            found.append((place * _WORD, place * _WORD + size))
    return found


def _words(code: bytes, order: str = "<") -> tuple[int, ...]:
    return struct.unpack_from(f"{order}{len(code) // _WORD}I", code)


def _places(words: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The number of the first word of each instruction, and the instruction's size in bytes."""
    place = 0
    while place < len(words):
        size = 2 if is_prefix(words[place]) and place + 1 < len(words) else 1
        yield place, size * _WORD
        place += size


def _loads_reserved(word: int) -> bool:
    return word >> 26 == _EXTENDED and word >> 1 & 0x3FF in _RESERVES


def _stores_conditionally(word: int) -> bool:
    return word >> 26 == _EXTENDED and word >> 1 & 0x3FF in _STORES


def _instruction(offset: int, word: int, size: int) -> Instruction:
    if word == _NOP:
        return Instruction(offset, size, Flow.NOP, is_padding=True)
    if word == _ZEROS or word in _TRAPS_ALWAYS:
        return Instruction(offset, size, Flow.ENDS, is_padding=word == _ZEROS)
    flow, target, kind = _leaving(offset, word) or (
        Flow.REFUSED if refusal_reason(word) else Flow.PLAIN,
        None,
        InstructionKind.STACK_STORE
        if any(word & mask == own for mask, own in _STACK_STORES)
        else InstructionKind.OTHER,
    )
    return Instruction(offset, size, flow, target, kind=kind, is_padding=word == _ALIGNING_NOP)


def _leaving(offset: int, word: int) -> tuple[Flow, int | None, InstructionKind] | None:
    """Flow, target and kind of an instruction after which the next one need not run; None for any other."""
    opcode, extended, links, condition = word >> 26, word >> 1 & 0x3FF, word & 1, word >> 21 & 0x1F
    unconditional = condition & _ALWAYS == _ALWAYS
    if opcode == _BRANCH:
        return Flow.ENDS, _target(offset, word, 26), InstructionKind.CALL if links else InstructionKind.JUMP
    if opcode == _CONDITIONAL_BRANCH:
        kind = InstructionKind.JUMP if unconditional else InstructionKind.CONDITIONAL
        return Flow.ENDS, _target(offset, word, 16), InstructionKind.CALL if links else kind
    if opcode == _REGISTER_BRANCHES and extended in (_TO_LINK, _TO_COUNT, _TO_TARGET):
        if links:
            return Flow.ENDS, None, InstructionKind.CALL
        if not unconditional:
            return Flow.ENDS, None, InstructionKind.CONDITIONAL
        if extended == _TO_LINK:
            return Flow.ENDS, None, InstructionKind.RETURN
        return Flow.COMPUTED, None, InstructionKind.JUMP
    if opcode == _SYSTEM_CALL or (opcode == _REGISTER_BRANCHES and extended in _RETURNS_FROM_EXCEPTION):
        return Flow.ENDS, None, InstructionKind.OTHER
    return None


def _target(offset: int, word: int, bits: int) -> int | None:
    """The target of a branch whose distance has this number of bits; None for an absolute address."""
    if word & 2:
        return None
    distance = word & ((1 << bits) - 4)
    return offset + (distance - (1 << bits) if distance >> (bits - 1) else distance)
