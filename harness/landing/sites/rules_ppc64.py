"""The rules by which 64-bit PowerPC refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.1)."""

from __future__ import annotations

import errno
from typing import Literal

from harness.landing.code.ppc64_kprobe_rules import is_prefix, refusal_reason

_WORD = 4


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    return _refusal(code, offset, "little")


def refusal_in_big_endian(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return the same for big-endian code."""
    return _refusal(code, offset, "big")


def _refusal(code: bytes, offset: int, order: Literal["little", "big"]) -> tuple[int, str]:
    reason = refusal_reason(int.from_bytes(code[offset : offset + _WORD], order))
    if not reason and offset >= _WORD and is_prefix(int.from_bytes(code[offset - _WORD : offset], order)):
        reason = "second word of a prefixed instruction"
    return (errno.EINVAL, reason) if reason else (0, "")
