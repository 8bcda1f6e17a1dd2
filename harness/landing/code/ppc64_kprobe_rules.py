"""The instructions on which 64-bit PowerPC refuses a kprobe or a uprobe (can_single_step(), asm/probes.h, 6.1).

A kprobe is refused with EINVAL (arch_prepare_kprobe(), arch/powerpc/kernel/kprobes.c), a uprobe with ENOTSUPP
(arch_uprobe_analyze_insn(), uprobes.c).
"""

from __future__ import annotations

_BY_OPCODE = {2: "tdi", 3: "twi", 17: "sc"}
_BY_EXTENDED_OPCODE = {
    19: {
        18: "rfid",
        38: "rfmci",
        39: "rfdi",
        50: "rfi",
        51: "rfci",
        82: "rfscv",
        274: "hrfid",
        306: "urfid",
        370: "stop",
        402: "doze",
        434: "nap",
        466: "sleep",
        498: "rvwinkle",
    },
    31: {4: "tw", 68: "td", 146: "mtmsr", 178: "mtmsrd"},
}
# The opcode of the first word of a prefixed instruction, which has two (PPC_PREFIX, asm/inst.h).
_PREFIX = 1


def refusal_reason(word: int) -> str:
    """Return why the kernel refuses a probe on this word; "" if it does not."""
    opcode, extended = word >> 26, word >> 1 & 0x3FF
    name = _BY_OPCODE.get(opcode) or _BY_EXTENDED_OPCODE.get(opcode, {}).get(extended)
    return f"{name} cannot be stepped" if name else ""


def is_prefix(word: int) -> bool:
    """Return True for the first word of a prefixed instruction; the kernel refuses a probe on the second."""
    return word >> 26 == _PREFIX
