"""x86_64, x86_32 and AArch64 instructions through capstone."""

from __future__ import annotations

import struct
from functools import lru_cache

import capstone
from capstone import arm64_const, x86_const

from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.x86_instructions_missing_in_capstone import bytes_to_skip, missing_instruction_flow

_X86_TRAPS = frozenset({x86_const.X86_INS_UD0, x86_const.X86_INS_UD1, x86_const.X86_INS_UD2, x86_const.X86_INS_INT3})
_X86_LEAVES = frozenset(
    {
        capstone.CS_GRP_JUMP,
        capstone.CS_GRP_CALL,
        capstone.CS_GRP_RET,
        capstone.CS_GRP_INT,
        capstone.CS_GRP_IRET,
    }
)
_ARM64_LEAVES = frozenset({"b", "bl", "br", "blr", "ret", "cbz", "cbnz", "tbz", "tbnz", "eret", "svc", "hvc", "smc"})
_ARM64_KINDS = {
    **dict.fromkeys(("cbz", "cbnz", "tbz", "tbnz"), InstructionKind.CONDITIONAL),
    **dict.fromkeys(("bl", "blr"), InstructionKind.CALL),
    **dict.fromkeys(("b", "br"), InstructionKind.JUMP),
    "ret": InstructionKind.RETURN,
}
_ARM64_TRAPS = frozenset({"brk", "hlt", "udf"})
_ARM64_REFUSED = frozenset({"msr", "prfm", "hint", "yield", "esb", "psb", "tsb", "csdb", "dgh"})
_ARM64_WORD = 4
_WORD_MASK = (1 << 64) - 1
_WORD_32, _WORD_32_MASK = 4, (1 << 32) - 1
_ADRP_X16, _ADD_X16, _BR_X16 = 0x90000010, 0x91000210, 0xD61F0200


@lru_cache
def _disassembler(architecture: int, mode: int) -> capstone.Cs:
    found = capstone.Cs(architecture, mode)
    found.detail = True
    _skip_unknown(found)
    return found


def _skip_unknown(disassembler: capstone.Cs) -> None:
    """Make bytes that capstone cannot decode a pseudo-instruction with id 0. Without this it stops there, silently."""
    disassembler.skipdata = True
    if disassembler.arch == capstone.CS_ARCH_X86:
        disassembler.skipdata_setup = (".byte", bytes_to_skip, None)


def decode_x86_64(code: bytes) -> list[Instruction]:
    """Decode every instruction of a function; each byte that cannot be decoded is an instruction with flow UNKNOWN."""
    return [_x86(each) for each in _disassembler(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, 0)]


def decode_x86_32(code: bytes) -> list[Instruction]:
    """Decode as decode_x86_64 does."""
    found = _disassembler(capstone.CS_ARCH_X86, capstone.CS_MODE_32).disasm(code, 0)
    return [_x86(each)._replace(is_padding=True) if _is_lea_without_effect(each) else _x86(each) for each in found]


def _is_lea_without_effect(found: capstone.CsInsn) -> bool:
    """True for LEA of a register to itself, such as `lea 0x0(%esi,%eiz,1),%esi`, with which gas pads 32-bit code."""
    if found.id != x86_const.X86_INS_LEA:
        return False
    target, memory = found.operands[0].reg, found.operands[1].mem
    return target == memory.base and memory.index in (0, x86_const.X86_REG_EIZ) and memory.disp == 0


def instruction_starts_x86_64(code: bytes) -> list[int]:
    """The offset of every instruction and of every byte that cannot be decoded; 20 times faster than decoding."""
    return [offset for offset, *_ in _fast_disassembler(capstone.CS_MODE_64).disasm_lite(code, 0)]


def instruction_starts_x86_32(code: bytes) -> list[int]:
    """The offsets as instruction_starts_x86_64 returns them."""
    return [offset for offset, *_ in _fast_disassembler(capstone.CS_MODE_32).disasm_lite(code, 0)]


@lru_cache
def _fast_disassembler(mode: int) -> capstone.Cs:
    found = capstone.Cs(capstone.CS_ARCH_X86, mode)
    _skip_unknown(found)
    return found


def _x86(found: capstone.CsInsn) -> Instruction:
    if found.id == 0:
        return Instruction(found.address, found.size, missing_instruction_flow(bytes(found.bytes)))
    if found.id == x86_const.X86_INS_NOP:
        return Instruction(found.address, found.size, Flow.NOP, is_padding=True)
    if found.id in _X86_TRAPS:
        return Instruction(found.address, found.size, Flow.ENDS, is_padding=found.id == x86_const.X86_INS_INT3)
    if not _X86_LEAVES & set(found.groups):
        return Instruction(found.address, found.size, Flow.PLAIN)
    target = _x86_target(found)
    computed = target is None and capstone.CS_GRP_JUMP in found.groups
    return Instruction(
        found.address, found.size, Flow.COMPUTED if computed else Flow.ENDS, target, kind=_x86_kind(found)
    )


def _x86_target(found: capstone.CsInsn) -> int | None:
    """Return the offset that a direct branch goes to; in 32-bit code capstone reports it modulo 2^32."""
    target = next((operand.imm for operand in found.operands if operand.type == x86_const.X86_OP_IMM), None)
    if target is not None and target >> 31 == 1:
        return int(target - (1 << 32))
    return target


def _x86_kind(found: capstone.CsInsn) -> InstructionKind:
    leaves = {capstone.CS_GRP_CALL, capstone.CS_GRP_JUMP} & set(found.groups)
    if leaves and any(operand.type == x86_const.X86_OP_MEM for operand in found.operands):
        return InstructionKind.THROUGH_MEMORY
    if capstone.CS_GRP_CALL in found.groups:
        return InstructionKind.CALL
    if capstone.CS_GRP_RET in found.groups:
        return InstructionKind.RETURN
    if capstone.CS_GRP_JUMP not in found.groups:
        return InstructionKind.OTHER
    return (
        InstructionKind.JUMP
        if found.id in (x86_const.X86_INS_JMP, x86_const.X86_INS_LJMP)
        else InstructionKind.CONDITIONAL
    )


def decode_aarch64(code: bytes) -> list[Instruction]:
    """Decode every word of a function as an instruction."""
    found = _disassembler(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN).disasm(code, 0)
    return [_arm64(instruction) for instruction in found]


def stub_ranges_aarch64(code: bytes) -> list[tuple[int, int]]:
    """Start and end of each veneer of a module: ADRP x16, ADD x16, BR x16 (get_plt_entry(), module-plts.c, 6.1)."""
    words = [word for (word,) in struct.iter_unpack("<I", code[: len(code) // _ARM64_WORD * _ARM64_WORD])]
    return [
        (number * _ARM64_WORD, (number + 3) * _ARM64_WORD)
        for number, (page, low, branch) in enumerate(zip(words, words[1:], words[2:], strict=False))
        if page & 0x9F00001F == _ADRP_X16 and low & 0xFFC003FF == _ADD_X16 and branch == _BR_X16
    ]


def addresses_of_words_read_aarch64(code: bytes, address: int) -> set[int]:
    """The addresses that a function at `address` reads as 64-bit words by ADRP, ADD and LDR with constants.

    Instructions are followed in the order of their addresses, branches are not.
    """
    known: dict[int, int] = {}
    found = set()
    for each in _disassembler(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN).disasm(code, address):
        operands = each.operands
        target = operands[0].reg if operands and operands[0].type == arm64_const.ARM64_OP_REG else None
        value = None
        if each.id == arm64_const.ARM64_INS_ADRP:
            value = operands[1].imm
        elif each.id == arm64_const.ARM64_INS_ADD and operands[2].type == arm64_const.ARM64_OP_IMM:
            value = _sum(known.get(operands[1].reg), operands[2].imm)
        elif each.id == arm64_const.ARM64_INS_MOV and operands[1].type == arm64_const.ARM64_OP_REG:
            value = known.get(operands[1].reg)
        elif each.id == arm64_const.ARM64_INS_LDR and operands[1].type == arm64_const.ARM64_OP_MEM:
            memory = operands[1].mem
            place = None if memory.index else _sum(known.get(memory.base), memory.disp)
            if place is not None and each.reg_name(operands[0].reg).startswith("x"):
                found.add(place & _WORD_MASK)
        if target is not None:
            known.pop(target, None)
            if value is not None:
                known[target] = value
    return found


def addresses_of_words_read_x86_32(code: bytes, address: int) -> set[int]:
    """The addresses that a function at `address` reads as 32-bit words by MOV with a constant address."""
    found = set()
    for each in _disassembler(capstone.CS_ARCH_X86, capstone.CS_MODE_32).disasm(code, address):
        if each.id == x86_const.X86_INS_MOV and each.operands[1].type == x86_const.X86_OP_MEM:
            memory = each.operands[1].mem
            if not (memory.base or memory.index or memory.segment) and each.operands[1].size == _WORD_32:
                found.add(memory.disp & _WORD_32_MASK)
    return found


def _sum(base: int | None, offset: int) -> int | None:
    return None if base is None else base + offset


def _arm64(found: capstone.CsInsn) -> Instruction:
    mnemonic = found.mnemonic.partition(".")[0]
    if found.id == 0:
        return Instruction(found.address, found.size, Flow.UNKNOWN)
    if mnemonic in _ARM64_TRAPS:
        return Instruction(found.address, _ARM64_WORD, Flow.ENDS, is_padding=not any(found.bytes))
    if mnemonic == "nop":
        return Instruction(found.address, _ARM64_WORD, Flow.NOP, is_padding=True)
    if mnemonic in _ARM64_LEAVES:
        # tbz has the bit number as an operand before its target.
        targets = [operand.imm for operand in found.operands if operand.type == arm64_const.ARM64_OP_IMM]
        flow = Flow.COMPUTED if mnemonic == "br" else Flow.ENDS
        kind = _ARM64_KINDS.get(found.mnemonic, InstructionKind.OTHER)
        kind = InstructionKind.CONDITIONAL if found.mnemonic.startswith("b.") else kind
        return Instruction(found.address, _ARM64_WORD, flow, targets[-1] if targets else None, kind=kind)
    return Instruction(found.address, _ARM64_WORD, _arm64_flow(mnemonic, found.op_str))


def _arm64_flow(mnemonic: str, operands: str) -> Flow:
    """The flow of an instruction after which the next instruction runs.

    Loads and stores that the kernel classifies as exclusive count as ENDS, because the kernel refuses a probe on the
    instructions that follow them (is_probed_address_atomic(), arch/arm64/kernel/probes/decode-insn.c, 6.1; its mask
    matches LDAR and CASA too). REFUSED are instructions that the kernel cannot step (aarch64_insn_is_steppable(), same
    file): writes of system registers, reads of DAIF, prefetches of literals, and all hints except a few. AUTIASP, which
    may fault, is refused; PACIASP is not.
    """
    if mnemonic.startswith(("ldx", "ldax", "ldar", "ldlar", "stx", "stlx", "cas")):
        return Flow.ENDS
    if mnemonic.startswith(("aut", "wf", "sev")) or mnemonic in _ARM64_REFUSED or "daif" in operands:
        return Flow.REFUSED
    return Flow.PLAIN
