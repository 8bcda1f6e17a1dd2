"""The rules by which 32-bit ARM refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.1)."""

from __future__ import annotations

import errno

from harness.landing.code.arm_kprobe_rules import refusal_reason

_WORD = 4


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    start = offset // _WORD * _WORD
    reason = refusal_reason(int.from_bytes(code[start : start + _WORD], "little"))
    return (errno.EINVAL, reason) if reason else (0, "")
