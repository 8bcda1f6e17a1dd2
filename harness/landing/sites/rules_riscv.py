"""The rules by which RISC-V refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.12)."""

from __future__ import annotations

import errno

from harness.landing.code.riscv_kprobe_rules import instruction_size, refusal_reason


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    size = instruction_size(code[offset])
    reason = refusal_reason(int.from_bytes(code[offset : offset + size], "little"))
    return (errno.EINVAL, reason) if reason else (0, "")
