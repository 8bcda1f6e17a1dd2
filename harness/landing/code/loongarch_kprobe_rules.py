"""The instructions on which LoongArch refuses a kprobe (insns_not_supported(), arch/loongarch/kernel/inst.c, 6.12).

The kernel's own ranges of opcodes are used.
"""

from __future__ import annotations

# Bits 15 to 31 of amswap.w to ammin_db.du, and of sc.q.
_ATOMIC, _SC_QUAD = range(0x70C0, 0x70E4), 0x70AE
# Bits 24 to 31 of ll.w, sc.w, ll.d, sc.d, and bits 10 to 31 of llacq.w, screl.w, llacq.d, screl.d.
_LOADS_LINKED, _STORES_CONDITIONAL = frozenset({0x20, 0x22}), frozenset({0x21, 0x23})
_ACQUIRING_LOADS, _RELEASING_STORES = frozenset({0xE15E0, 0xE15E2}), frozenset({0xE15E1, 0xE15E3})
_BRANCH_ON_FLOAT = 0x12  # bits 26 to 31 of bceqz and bcnez


def loads_linked(word: int) -> bool:
    """True for a load that reserves an address."""
    return word >> 24 in _LOADS_LINKED or word >> 10 in _ACQUIRING_LOADS


def stores_conditionally(word: int) -> bool:
    """True for a store that depends on a reservation."""
    return word >> 24 in _STORES_CONDITIONAL or word >> 10 in _RELEASING_STORES or word >> 15 == _SC_QUAD


def refusal_reason(word: int) -> str:
    """The reason why a probe on an instruction is refused with EINVAL; "" if it is accepted."""
    if word >> 15 in _ATOMIC:
        return "atomic memory access"
    if loads_linked(word) or stores_conditionally(word):
        return "ll or sc"
    return "branch on a floating-point condition" if word >> 26 == _BRANCH_ON_FLOAT else ""
