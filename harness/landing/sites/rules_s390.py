"""The rules by which s390 refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.1)."""

from __future__ import annotations

import errno

from harness.landing.code.decode_s390 import instruction_starts
from harness.landing.code.s390_kprobe_rules import refusal_reason


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted.

    The kernel decodes from the start of the function and refuses every offset after a halfword that begins with 0.
    """
    last = instruction_starts(code[: offset + 6])[-1]
    if last < offset and not code[last]:
        return errno.EINVAL, "after bytes that are no instruction"
    reason = refusal_reason(int.from_bytes(code[offset : offset + 2]))
    return (errno.EINVAL, reason) if reason else (0, "")
