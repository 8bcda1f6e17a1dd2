"""The ARM instructions on which a kernel in ARM state refuses a kprobe, with EINVAL (arch_prepare_kprobe(), 6.1).

The kernel accepts the instructions that its tables name (arch/arm/probes/decode-arm.c), unless one of their registers
is the program counter where that is refused, or unless they store below the stack pointer by more than 64 bytes or by
an unknown distance (arm_check_stack(), kprobes/checkers-arm.c, and MAX_STACK_SIZE, asm/probes.h). Two of the tables
accept everything that another rule of theirs does not refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NOT_STEPPED, BELOW_STACK = "instruction that is not stepped", "store below the stack pointer"

_PC, _SP = 15, 13
_UNCONDITIONAL, _ALWAYS = 0xF, 0xE
_LARGEST_STORE = 64
# Positions of the fields with a register.
_N, _D, _S, _M = 16, 12, 8, 0


class _Form(NamedTuple):
    """One class of instructions: `mask` and `value`, and the fields that must not be the program counter.

    `base_counts` is true if the base register must not be the program counter when it is written back. `accepted` is
    false for a class that is refused.
    """

    mask: int
    value: int
    registers: tuple[int, ...] = ()
    base_counts: bool = False
    accepted: bool = True

    def matches(self, word: int) -> bool:
        return word & self.mask == self.value

    def accepts(self, word: int) -> bool:
        written_back = (word ^ 0x01000000) & 0x01200000 != 0
        fields = (*self.registers, _N) if self.base_counts and written_back else self.registers
        return self.accepted and all(word >> field & 0xF != _PC for field in fields)


def _refused(mask: int, value: int) -> _Form:
    return _Form(mask, value, accepted=False)


_PRELOAD_AND_BLX = (_Form(0xFE300000, 0xF4100000), _Form(0xFE300010, 0xF6100000), _Form(0xFE000000, 0xFA000000))
# In the order of the kernel's tables; the first class that matches decides.
_FORMS: tuple[tuple[_Form, tuple[_Form, ...]], ...] = (
    (
        _Form(0x0F900080, 0x01000000),  # miscellaneous
        (
            _Form(0x0FF000F0, 0x01000000, (_D,)),  # MRS
            _Form(0x0FF000F0, 0x01200010),  # BX
            _Form(0x0FF000F0, 0x01200030, (_M,)),  # BLX
            _Form(0x0FF000F0, 0x01600010, (_D, _M)),  # CLZ
            _Form(0x0F9000F0, 0x01000050, (_N, _D, _M)),  # QADD, QSUB, QDADD, QDSUB
        ),
    ),
    (
        _Form(0x0F900090, 0x01000080),  # halfword multiply
        (
            _Form(0x0FF00090, 0x01400080, (_N, _D, _S, _M)),
            _Form(0x0FF000B0, 0x012000A0, (_N, _S, _M)),
            _Form(0x0FF00090, 0x01600080, (_N, _S, _M)),
            _Form(0x0FF00090, 0x01000080, (_N, _D, _S, _M)),
            _Form(0x0FF000B0, 0x01200080, (_N, _D, _S, _M)),
        ),
    ),
    (
        _Form(0x0F0000F0, 0x00000090),  # multiply
        (
            _Form(0x0FE000F0, 0x00000090, (_N, _S, _M)),
            _Form(0x0FE000F0, 0x00200090, (_N, _D, _S, _M)),
            _Form(0x0FF000F0, 0x00600090, (_N, _D, _S, _M)),
            _Form(0x0FF000F0, 0x00400090, (_N, _D, _S, _M)),
            _Form(0x0F8000F0, 0x00800090, (_N, _D, _S, _M)),
        ),
    ),
    (_Form(0x0F0000F0, 0x01000090), ()),  # LDREX, STREX
    (
        _Form(0x0E000090, 0x00000090),  # halfwords, doublewords
        (
            _refused(0x0F200090, 0x00200090),  # as from user mode
            _refused(0x0E10E0D0, 0x0000E0D0),
            _Form(0x0E5000D0, 0x000000D0, (_D, _M), base_counts=True),
            _Form(0x0E5000D0, 0x004000D0, (_D,), base_counts=True),
            _Form(0x0E5000F0, 0x000000B0, (_D, _M), base_counts=True),
            _Form(0x0E500090, 0x00100090, (_D, _M), base_counts=True),
            _Form(0x0E5000F0, 0x004000B0, (_D,), base_counts=True),
            _Form(0x0E500090, 0x00500090, (_D,), base_counts=True),
        ),
    ),
    (
        _Form(0x0E000000, 0x00000000),  # data processing with registers
        (
            _refused(0x0E10F000, 0x0010F000),  # return from an exception
            _Form(0x0E000010, 0x00000000),
            _Form(0x0F900090, 0x01100010, (_N, _S, _M)),
            _Form(0x0FA00090, 0x01A00010, (_D, _S, _M)),
            _Form(0x0E000090, 0x00000010, (_N, _D, _S, _M)),
        ),
    ),
    (
        _Form(0x0E000000, 0x02000000),  # data processing with a constant
        (
            _Form(0x0FB00000, 0x03000000, (_D,)),  # MOVW, MOVT
            _Form(0x0FFF00FF, 0x03200001),  # YIELD
            _Form(0x0FFF00FF, 0x03200004),  # SEV
            _Form(0x0FFF00FC, 0x03200000),  # NOP, WFE, WFI
            _refused(0x0FB00000, 0x03200000),  # other hints, MSR
            _refused(0x0E10F000, 0x0210F000),
            _Form(0x0E000000, 0x02000000),
        ),
    ),
    (
        _Form(0x0F000010, 0x06000010),  # media
        (
            _Form(0x0FF000F0, 0x068000B0, (_N, _D, _M)),  # SEL
            _Form(0x0FA00030, 0x06A00010, (_D, _M)),
            _Form(0x0FB000F0, 0x06A00030, (_D, _M)),
            _Form(0x0FB00070, 0x06B00030, (_D, _M)),  # REV
            _refused(0x0FB00010, 0x06000010),
            _refused(0x0F8000F0, 0x060000B0),
            _refused(0x0F8000F0, 0x060000D0),
            _Form(0x0F800010, 0x06000010, (_N, _D, _M)),
            _Form(0x0FF00030, 0x06800010, (_N, _D, _M)),  # PKH
            _refused(0x0FB000F0, 0x06900070),
            _Form(0x0F8F00F0, 0x068F0070, (_D, _M)),  # SXTB and similar
            _Form(0x0F8000F0, 0x06800070, (_N, _D, _M)),
        ),
    ),
    (
        _Form(0x0F000010, 0x07000010),  # media
        (
            _refused(0x0FF000F0, 0x07F000F0),  # UDF, the breakpoints, BUG()
            _Form(0x0FF00090, 0x07400010, (_N, _D, _S, _M)),
            _Form(0x0FF0F090, 0x0700F010, (_N, _S, _M)),
            _Form(0x0FF0F0D0, 0x0750F010, (_N, _S, _M)),
            _Form(0x0FF0F0F0, 0x0780F010, (_N, _S, _M)),
            _Form(0x0FF00090, 0x07000010, (_N, _D, _S, _M)),
            _Form(0x0FF000D0, 0x07500010, (_N, _D, _S, _M)),
            _Form(0x0FF000F0, 0x07800010, (_N, _D, _S, _M)),
            _Form(0x0FF000D0, 0x075000D0, (_N, _D, _S, _M)),
            _Form(0x0FA00070, 0x07A00050, (_D, _M)),  # SBFX, UBFX
            _Form(0x0FE0007F, 0x07C0001F, (_D,)),  # BFC
            _Form(0x0FE00070, 0x07C00010, (_D, _M)),  # BFI
        ),
    ),
    (
        _Form(0x0C000000, 0x04000000),  # words and bytes
        (
            _refused(0x0C40F000, 0x0440F000),
            _refused(0x0D200000, 0x04200000),  # as from user mode
            _Form(0x0E000000, 0x04000000, base_counts=True),
            _Form(0x0E000000, 0x06000000, (_M,), base_counts=True),
        ),
    ),
    (_Form(0x0E000000, 0x08000000), (_Form(0x0E400000, 0x08000000),)),  # LDM, STM
    (_Form(0x0E000000, 0x0A000000), (_Form(0x0E000000, 0x0A000000),)),  # B, BL
)
# Stores by a distance that is in a register: the base or the index is the stack pointer.
_STORES_BY_REGISTER = (
    _Form(0x0E10001F, 0x0600000D),
    _Form(0x0E1F0010, 0x060D0000),
    _Form(0x0E5000BF, 0x000000BD),
    _Form(0x0E5F00B0, 0x000D00B0),
)
_STORE_BELOW, _SHORT_STORE_BELOW = _Form(0x0F9F0000, 0x050D0000), _Form(0x0FDF00B0, 0x014D00B0)


def refusal_reason(word: int) -> str:
    """Return why the kernel refuses a probe on an instruction; "" if it accepts one."""
    if word >> 28 == _UNCONDITIONAL:
        return "" if _decides(_PRELOAD_AND_BLX, word) else NOT_STEPPED
    always = word & 0x0FFFFFFF | _ALWAYS << 28
    forms = next((forms for group, forms in _FORMS if group.matches(always)), ())
    if not _decides(forms, always):
        return NOT_STEPPED
    return BELOW_STACK if _stores_below_stack(word) else ""


def stack_bytes(word: int) -> int:
    """Return how many bytes below the stack pointer a store with a constant distance reaches (arm_check_stack())."""
    if _STORE_BELOW.matches(word):
        return word & 0xFFF
    if _SHORT_STORE_BELOW.matches(word):
        return (word & 0xF00) >> 4 | word & 0xF
    return 0


def _decides(forms: Iterable[_Form], word: int) -> bool:
    found = next((form for form in forms if form.matches(word)), None)
    return found is not None and found.accepts(word)


def _stores_below_stack(word: int) -> bool:
    return any(form.matches(word) for form in _STORES_BY_REGISTER) or stack_bytes(word) > _LARGEST_STORE
