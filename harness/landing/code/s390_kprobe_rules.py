"""The instructions on which s390 refuses a kprobe or a uprobe (probe_is_prohibited_opcode(), arch/s390/lib/probes.c).

The kernel also refuses what its own disassembler does not know (is_known_insn()); compilers emit no such instruction.
Line numbers and lists are those of 6.1.
"""

from __future__ import annotations

_BY_FIRST_BYTE = {
    0x0B: "bsm",
    0x0C: "bassm",
    0x44: "ex",
    0x83: "diag",
    0xAC: "stnsm",
    0xAD: "stosm",
}
_BY_HALFWORD = {
    0x0101: "pr",
    0xB218: "pc",
    0xB228: "pt",
    0xB240: "bakr",
    0xB258: "bsg",
    0xB25A: "bsa",
    0xB2F8: "tend",
    0xB98D: "epsw",
    0xE560: "tbegin",
    0xE561: "tbeginc",
}
_EXRL, _EXRL_MASK = 0xC600, 0xFF0F


def instruction_length(first_byte: int) -> int:
    """Return the size in bytes, from the two upper bits (insn_length(), arch/s390/include/asm/dis.h)."""
    return (2, 4, 4, 6)[first_byte >> 6]


def refusal_reason(halfword: int) -> str:
    """Return why the kernel refuses an instruction that begins with this halfword; "" if it does not.

    The kernel stops its search for instruction boundaries at an opcode whose first byte is 0 (can_probe(),
    arch/s390/kernel/kprobes.c).
    """
    if not halfword >> 8:
        return "is no instruction"
    name = _BY_FIRST_BYTE.get(halfword >> 8) or _BY_HALFWORD.get(halfword)
    if not name and halfword & _EXRL_MASK == _EXRL:
        name = "exrl"
    return f"{name} cannot be stepped" if name else ""
