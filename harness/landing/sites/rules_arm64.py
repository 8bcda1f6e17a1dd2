"""The rules by which arm64 refuses a kprobe for its instruction (arch/arm64/kernel/probes/decode-insn.c, 6.1)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple

_WORD = 4
# An exclusive load is searched for in this many words before the probe (MAX_ATOMIC_CONTEXT_SIZE).
_ATOMIC_WORDS = 128 // _WORD
_BRANCHES_AND_SYSTEM = (0b1010, 0b1011)
_DAIF = 0xDA11


class _Form(NamedTuple):
    """One class of instructions, as in arch/arm64/include/asm/insn.h, 6.1."""

    mask: int
    value: int

    def matches(self, word: int) -> bool:
        return word & self.mask == self.value


_LOAD_EXCLUSIVE = _Form(0x3F400000, 0x08400000)
_STORE_EXCLUSIVE = _Form(0x3F400000, 0x08000000)
_EXCLUSIVE = _Form(0x3F800000, 0x08000000)
_PREFETCH_LITERAL = _Form(0xFF000000, 0xD8000000)
_MRS = _Form(0xFFF00000, 0xD5300000)
_HINT = _Form(0xFFFFF01F, 0xD503201F)
# Branches with authentication, MSR, exceptions, ERET: neither stepped nor simulated.
_REFUSED = (
    _Form(0xFEFFF800, 0xD61F0800),
    _Form(0xFEFFF800, 0xD63F0800),
    _Form(0xFFFFFBFF, 0xD65F0BFF),
    _Form(0xFFF8F01F, 0xD500401F),
    _Form(0xFFF00000, 0xD5100000),
    _Form(0xFF000000, 0xD4000000),
    _Form(0xFFFFFFFF, 0xD69F03E0),
    _Form(0xFFFFFBFF, 0xD69F0BFF),
)
# NOP, XPACLRI, PACIA1716, PACIB1716, PACIAZ, PACIASP, PACIBZ, PACIBSP, BTI and its kinds
# (aarch64_insn_is_steppable_hint(), arch/arm64/lib/insn.c).
_STEPPED_HINTS = frozenset({0x00, 0x07, 0x08, 0x0A, 0x18, 0x19, 0x1A, 0x1B, 0x20, 0x22, 0x24, 0x26})


def refusal_errno_and_reason(code: bytes, offset: int, _version: tuple[int, int]) -> tuple[int, str]:
    """Return errno and reason for the instruction at an offset of a function; (0, "") if it is accepted."""
    words = [word for (word,) in struct.iter_unpack("<I", code[: offset // _WORD * _WORD + _WORD])]
    if not _is_steppable(words[-1]):
        return errno.EINVAL, "instruction that is not stepped"
    return (errno.EINVAL, "between exclusive load and store") if _is_atomic(words[:-1]) else (0, "")


def _is_steppable(word: int) -> bool:
    if word >> 25 & 0xF in _BRANCHES_AND_SYSTEM:
        if any(form.matches(word) for form in _REFUSED):
            return False
        if _MRS.matches(word):
            return (word & 0x1FFFE0) >> 5 != _DAIF
        return not _HINT.matches(word) or word >> 5 & 0x7F in _STEPPED_HINTS
    return not (_PREFETCH_LITERAL.matches(word) or _EXCLUSIVE.matches(word))


def _is_atomic(before: Sequence[int]) -> bool:
    """True after an exclusive load without an exclusive store between (is_probed_address_atomic())."""
    for word in reversed(before[-_ATOMIC_WORDS:]):
        if _STORE_EXCLUSIVE.matches(word):
            return False
        if _LOAD_EXCLUSIVE.matches(word):
            return True
    return False
