"""The rule by which SuperH refuses a kprobe for its instruction (arch_prepare_kprobe(), 6.1)."""

from __future__ import annotations

import errno

_SIZE, _RTE = 2, 0x002B


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    found = int.from_bytes(code[offset : offset + _SIZE], "little") == _RTE
    return (errno.EFAULT, "return from an exception") if found else (0, "")
