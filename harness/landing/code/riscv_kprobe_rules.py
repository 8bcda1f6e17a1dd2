"""Which instructions RISC-V's kprobes and uprobes refuse (riscv_probe_decode_insn(), arch/riscv/kernel/probes, 6.12).

The kernel's own masks are used. It rejects C.JAL only on 32-bit processors: on 64-bit ones the encoding is C.ADDIW
(riscv_insn_is_c_jal(), arch/riscv/include/asm/insn.h).
"""

from __future__ import annotations

NOT_STEPPED = "instruction that is not stepped"

_FULL_SIZE, _HALF_SIZE = 4, 2
# Bits 0 and 1 of the first byte are set if the instruction has four bytes (GET_INSN_LENGTH(), asm/bug.h).
_FULL = 3
_OPCODE, _SYSTEM, _FENCE = 0x7F, 0x73, 0x0F
_C_EBREAK = 0x9002


def instruction_size(first_byte: int) -> int:
    """The size of an instruction in bytes, by its first byte."""
    return _FULL_SIZE if first_byte & _FULL == _FULL else _HALF_SIZE


def refusal_reason(instruction: int) -> str:
    """The reason why a probe on an instruction is refused with EINVAL; "" if it is accepted."""
    if instruction & _OPCODE in (_SYSTEM, _FENCE):
        return NOT_STEPPED
    return NOT_STEPPED if instruction & 0xFFFF == _C_EBREAK else ""
