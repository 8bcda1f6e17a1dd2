"""The names that the kernel has for error numbers (include/uapi/asm-generic/errno.h, include/linux/errno.h, 6.1)."""

from __future__ import annotations

import errno

# Python names 95 and 35 as the C library's aliases, and does not know numbers that the kernel keeps to itself.
_OTHERS = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", 524: "ENOTSUPP"}


def kernel_errno_name(number: int) -> str:
    """Return the kernel's name of a positive error number, or the number if it has none."""
    return _OTHERS.get(number) or errno.errorcode.get(number, str(number))
