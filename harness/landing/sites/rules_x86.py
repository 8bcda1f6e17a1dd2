"""The rules by which x86 refuses a kprobe for its instruction (arch/x86/kernel/kprobes/core.c, 6.1)."""

from __future__ import annotations

import errno
from functools import lru_cache

import capstone
from capstone import x86_const

_CALL_OR_JUMP_FAR = 0x8
_REGISTER = 0b11
_INT3, _IRET, _FAR_CALL, _FAR_JUMP, _GROUP_5, _TWO_BYTES, _SYSTEM = 0xCC, 0xCF, 0x9A, 0xEA, 0xFF, 0x0F, 0x01
# Since this version the kernel also refuses INT and UD, with EILSEQ (is_exception_insn() in can_probe()).
_REFUSES_TRAPS = (6, 10)
# Since this version the kernel puts a breakpoint after its copy of the instruction, which has 15 bytes of room in all
# (prepare_singlestep(), MAX_INSN_SIZE).
_COPIES_WITH_BREAKPOINT, _ROOM = (5, 13), 15
_TRAPS = frozenset(
    {
        x86_const.X86_INS_INT,
        x86_const.X86_INS_INT1,
        x86_const.X86_INS_INT3,
        x86_const.X86_INS_UD0,
        x86_const.X86_INS_UD1,
        x86_const.X86_INS_UD2,
    }
)


@lru_cache
def _disassembler() -> capstone.Cs:
    found = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found.detail = True
    return found


def refusal_errno_and_reason(code: bytes, offset: int, version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted.

    `version` is the kernel's, major and minor.
    """
    found = next(_disassembler().disasm(code[offset:], 0, count=1), None)
    if found is None:
        return errno.EILSEQ, "no instruction"
    if found.id in _TRAPS and version >= _REFUSES_TRAPS:
        return errno.EILSEQ, "trap, which is not stepped"
    first, second = found.opcode[0], found.opcode[1]
    if first == _INT3:
        # __copy_instruction() returns 0 for a breakpoint that is not the kernel's own.
        return errno.EINVAL, "trap, which is not stepped"
    if first in (_IRET, _FAR_CALL, _FAR_JUMP):
        return errno.EOPNOTSUPP, "far jump, far call or iret"
    modrm = found.modrm
    if first == _TWO_BYTES and second == _SYSTEM and modrm >> 6 == _REGISTER and not modrm & 0x38:
        return errno.EOPNOTSUPP, "instruction of virtual machines"
    indirect = first == _GROUP_5 and modrm & 0x30 in (0x10, 0x20)
    if indirect and (modrm & _CALL_OR_JUMP_FAR or modrm >> 6 != _REGISTER):
        return errno.EOPNOTSUPP, "call or jump through memory"
    if found.size >= _ROOM and version >= _COPIES_WITH_BREAKPOINT:
        return errno.ENOSPC, "instruction of 15 bytes"
    return 0, ""
