"""The rules by which LoongArch refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.12)."""

from __future__ import annotations

import errno

from harness.landing.code.loongarch_kprobe_rules import refusal_reason

_WORD = 4


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    reason = refusal_reason(int.from_bytes(code[offset : offset + _WORD], "little"))
    return (errno.EINVAL, reason) if reason else (0, "")
