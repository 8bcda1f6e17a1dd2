"""The instructions on which MIPS refuses a kprobe (arch_prepare_kprobe(), arch/mips/kernel/kprobes.c, 6.1).

The kernel's own masks are used (__insn_has_delay_slot(), arch/mips/kernel/probes-common.h): it treats every instruction
of coprocessor 1 as a branch. Compact branches, which only release 6 has, are refused, too.
"""

from __future__ import annotations

_SPECIAL, _REGIMM, _COPROCESSOR_1 = 0, 1, 0x11
_JR, _JALR = 8, 9
# bltz, bgez, bltzl, bgezl; the same with a link; bposge32.
_REGIMM_BRANCHES = frozenset({0, 1, 2, 3, 16, 17, 18, 19, 28})
# j, jal, beq, bne, blez, bgtz; beql, bnel, blezl, bgtzl.
_BRANCHES = frozenset({2, 3, 4, 5, 6, 7, 20, 21, 22, 23})
# The reason for the refusal of a probe after such an instruction.
DELAY_SLOT = "delay slot of a branch"
_LOADS_LINKED, _STORES_CONDITIONAL = frozenset({0x30, 0x34}), frozenset({0x38, 0x3C})


def has_delay_slot(word: int) -> bool:
    """True if the kernel treats an instruction as one with a delay slot, in which it refuses a probe."""
    opcode = word >> 26
    if opcode == _SPECIAL:
        return word & 0x3F in (_JR, _JALR)
    if opcode == _REGIMM:
        return word >> 16 & 0x1F in _REGIMM_BRANCHES
    return opcode in _BRANCHES or opcode == _COPROCESSOR_1


def loads_linked(word: int) -> bool:
    """True for ll and lld."""
    return word >> 26 in _LOADS_LINKED


def stores_conditionally(word: int) -> bool:
    """True for sc and scd."""
    return word >> 26 in _STORES_CONDITIONAL


def refusal_reason(word: int, before: int | None) -> str:
    """The reason why a probe on a word after another word is refused with EINVAL; "" if it is accepted."""
    if loads_linked(word) or stores_conditionally(word):
        return "ll or sc"
    return DELAY_SLOT if before is not None and has_delay_slot(before) else ""
