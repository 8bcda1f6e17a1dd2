"""The rules by which MIPS refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.1)."""

from __future__ import annotations

import errno
from typing import Literal

from harness.landing.code.mips_kprobe_rules import refusal_reason

_WORD = 4


def refusal_little_endian(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    return _refusal(code, offset, "little")


def refusal_big_endian(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return the same for a function of a big-endian kernel."""
    return _refusal(code, offset, "big")


def _refusal(code: bytes, offset: int, order: Literal["little", "big"]) -> tuple[int, str]:
    """Return the answer from the word at an offset and the one before it, which the kernel reads, too."""
    before = int.from_bytes(code[offset - _WORD : offset], order) if offset >= _WORD else None
    reason = refusal_reason(int.from_bytes(code[offset : offset + _WORD], order), before)
    return (errno.EINVAL, reason) if reason else (0, "")
