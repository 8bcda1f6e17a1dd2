"""What the site of a traced function calls, decoded from its bytes in memory."""

from __future__ import annotations

from typing import Literal

from harness.core.architecture import FtraceCallInstruction

# The bytes of the longest site.
LONGEST = 8

_X86_CALL, _X86_SIZE = 0xE8, 5
# BL that is always executed has this in its upper eight bits, a distance in words below, and counts from two words on.
_ARM_BL, _ARM_DISTANCE, _ARM_AHEAD = 0xEB, 24, 8
# BL has 100101 in its upper six bits and a distance in words below.
_ARM64_BL, _ARM64_WORD, _ARM64_DISTANCE = 0x25, 4, 26
# BRCL 15 to a trampoline: BRASL, padding, the rest of the function, and the tracer in the last eight bytes (struct
# ftrace_hotpatch_trampoline, arch/s390/kernel/ftrace.h, 6.1).
_S390_BRANCH, _S390_SIZE = 0xC0F4, 6
_S390_BRASL, _S390_TRAMPOLINE_SIZE, _S390_TRACER = 0xC015, 24, 16
# AUIPC t0 has the upper 20 bits of the distance in its own upper bits, JALR t0 the lower 12 in its upper bits; both are
# signed.
_AUIPC_T0, _JALR_T0, _AUIPC_MASK, _JALR_MASK, _RISCV_SIZE = 0x297, 0x282E7, 0xFFF, 0xFFFFF, 8

# BL has 010010 in its upper six bits, a distance in bytes below, and 01 in the lower two.
_PPC_BL, _PPC_MASK, _PPC_DISTANCE = 0x48000001, 0xFC000003, 26

# JAL has 000011 in its upper six bits, and below a distance in words from the start of its region of 256 MiB. LUI v1
# and DADDIU or ADDIU v1,v1 have the halves of an address, the lower one signed; the call is two instructions later.
_MIPS_JAL, _MIPS_WORDS, _MIPS_REGION = 3, 0x3FFFFFF, 0xFFFF_FFFF_F000_0000
_MIPS_LUI_V1, _MIPS_DADDIU_V1, _MIPS_ADDIU_V1, _MIPS_SIZE = 0x3C03, 0x6463, 0x2463, 8


# BL has 010101 in its upper six bits; of the distance in words, 16 bits begin at bit 10, and the upper 10 at bit 0.
_LOONGARCH_BL, _LOONGARCH_SIZE, _LOONGARCH_DISTANCE = 0x15, 8, 26


def call_target(form: FtraceCallInstruction, address: int, code: bytes) -> int | None:
    """The address that the site at `address` calls; None where its bytes are no call."""
    decoders = {
        FtraceCallInstruction.X86_CALL: _x86,
        FtraceCallInstruction.ARM64_BL: _arm64,
        FtraceCallInstruction.ARM_BL: _arm,
        FtraceCallInstruction.S390_TRAMPOLINE: _s390,
        FtraceCallInstruction.RISCV_AUIPC_JALR: _riscv,
        FtraceCallInstruction.PPC_BL: _ppc,
        FtraceCallInstruction.MIPS_JAL: _mips64,
        FtraceCallInstruction.MIPS32_JAL: _mips32,
        FtraceCallInstruction.LOONGARCH_BL: _loongarch,
    }
    return decoders[form](address, code)


def size_of_trampoline_at_target(form: FtraceCallInstruction) -> int:
    """The size of the trampoline that a site of this form calls in place of the tracer; 0 if it calls the tracer."""
    return _S390_TRAMPOLINE_SIZE if form is FtraceCallInstruction.S390_TRAMPOLINE else 0


def tracer_of_trampoline(content: bytes) -> int | None:
    """The address that the trampoline of a site calls; None if the bytes are no trampoline."""
    if len(content) < _S390_TRAMPOLINE_SIZE or int.from_bytes(content[:2]) != _S390_BRASL:
        return None
    return int.from_bytes(content[_S390_TRACER:_S390_TRAMPOLINE_SIZE])


def _x86(address: int, code: bytes) -> int | None:
    if len(code) < _X86_SIZE or code[0] != _X86_CALL:
        return None
    distance = int.from_bytes(code[1:_X86_SIZE], "little", signed=True)
    return (address + _X86_SIZE + distance) & 0xFFFF_FFFF_FFFF_FFFF


def _arm64(address: int, code: bytes) -> int | None:
    for place in range(0, min(len(code), LONGEST) - _ARM64_WORD + 1, _ARM64_WORD):
        word = int.from_bytes(code[place : place + _ARM64_WORD], "little")
        if word >> _ARM64_DISTANCE == _ARM64_BL:
            words = word & ((1 << _ARM64_DISTANCE) - 1)
            words -= (words >> (_ARM64_DISTANCE - 1)) << _ARM64_DISTANCE
            return (address + place + _ARM64_WORD * words) & 0xFFFF_FFFF_FFFF_FFFF
    return None


def _arm(address: int, code: bytes) -> int | None:
    word = int.from_bytes(code[:_ARM64_WORD], "little")
    if len(code) < _ARM64_WORD or word >> _ARM_DISTANCE != _ARM_BL:
        return None
    words = word & ((1 << _ARM_DISTANCE) - 1)
    words -= (words >> (_ARM_DISTANCE - 1)) << _ARM_DISTANCE
    return (address + _ARM_AHEAD + _ARM64_WORD * words) & 0xFFFF_FFFF


def _s390(address: int, code: bytes) -> int | None:
    if len(code) < _S390_SIZE or int.from_bytes(code[:2]) != _S390_BRANCH:
        return None
    return address + 2 * int.from_bytes(code[2:_S390_SIZE], signed=True) & 0xFFFF_FFFF_FFFF_FFFF


def _riscv(address: int, code: bytes) -> int | None:
    upper, lower = int.from_bytes(code[:4], "little"), int.from_bytes(code[4:_RISCV_SIZE], "little")
    if len(code) < _RISCV_SIZE or upper & _AUIPC_MASK != _AUIPC_T0 or lower & _JALR_MASK != _JALR_T0:
        return None
    distance = (upper & ~_AUIPC_MASK) - (upper >> 31 << 32) + (lower >> 20) - (lower >> 31 << 12)
    return (address + distance) & 0xFFFF_FFFF_FFFF_FFFF


def _ppc(address: int, code: bytes) -> int | None:
    word = int.from_bytes(code[:_ARM64_WORD], "little")
    if len(code) < _ARM64_WORD or word & _PPC_MASK != _PPC_BL:
        return None
    distance = word & ~_PPC_MASK
    return (address + distance - (distance >> (_PPC_DISTANCE - 1) << _PPC_DISTANCE)) & 0xFFFF_FFFF_FFFF_FFFF


def _mips64(address: int, code: bytes) -> int | None:
    found = _mips(address, code, "little", _MIPS_DADDIU_V1)
    return None if found is None else found | (0xFFFF_FFFF_0000_0000 if found >> 31 else 0)


def _mips32(address: int, code: bytes) -> int | None:
    return _mips(address, code, "big", _MIPS_ADDIU_V1)


def _mips(address: int, code: bytes, order: Literal["little", "big"], adds: int) -> int | None:
    """The target, of which 32 bits may have been loaded."""
    if len(code) < _MIPS_SIZE:
        return None
    first, second = (int.from_bytes(code[place : place + 4], order) for place in (0, 4))
    if first >> 26 == _MIPS_JAL:
        return (address + 4) & _MIPS_REGION | (first & _MIPS_WORDS) << 2
    if (first >> 16, second >> 16) != (_MIPS_LUI_V1, adds):
        return None
    lower = second & 0xFFFF
    return ((first & 0xFFFF) << 16) + lower - (lower >> 15 << 16) & 0xFFFF_FFFF


def _loongarch(address: int, code: bytes) -> int | None:
    word = int.from_bytes(code[4:_LOONGARCH_SIZE], "little")
    if len(code) < _LOONGARCH_SIZE or word >> 26 != _LOONGARCH_BL:
        return None
    words = (word & 0x3FF) << 16 | word >> 10 & 0xFFFF
    words -= words >> (_LOONGARCH_DISTANCE - 1) << _LOONGARCH_DISTANCE
    return (address + 4 + 4 * words) & 0xFFFF_FFFF_FFFF_FFFF
