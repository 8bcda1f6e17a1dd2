"""Decodes the flow of control of s390 instructions, which have 2, 4 or 6 bytes.

Source: "z/Architecture Principles of Operation", SA22-7832, appendix B; arch/s390/tools/opcodes.txt, 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.s390_kprobe_rules import instruction_length, refusal_reason

_HALF = 2
# First byte, and last byte or second digit, of what adds to a register.
_LA, _LAY, _AGHI = 0x41, (0xE3, 0x71), (0xA7, 0xB)
# The registers with the return address, and with the stack pointer.
_LINK, _STACK = 14, 15
_ALWAYS = 0xF
# BRCL with mask 0: a static key (arch/s390/include/asm/jump_label.h), an alternative, or ftrace's nop, which has itself
# as its target in the file and a trampoline in memory (ftrace_init_nop(), arch/s390/kernel/ftrace.c).
_BRCL_NEVER = 0xC004
# BCTR, BALR and BASR do not branch if their second register is 0.
_BCTR, _BCR, _BASR, _BALR = 0x06, 0x07, 0x0D, 0x05
_BC, _BAL, _BAS, _BCT = 0x47, 0x45, 0x4D, 0x46
# BXH, BXLE and their 64-bit forms branch to an address in a register.
_BXH, _BXLE, _BRXH, _BRXLE = 0x86, 0x87, 0x84, 0x85
# Fourth digit of A7.., C0.. and CC..: BRC, BRAS, BRCT, BRCTG; BRCL, BRASL; BRCTH.
_RELATIVE_16 = {4: None, 5: InstructionKind.CALL, 6: InstructionKind.CONDITIONAL, 7: InstructionKind.CONDITIONAL}
_RELATIVE_32 = {4: None, 5: InstructionKind.CALL}
# Last byte of EC..: CGRJ, CLGRJ, CRJ, CLRJ, CGIJ, CLGIJ, CIJ, CLIJ, BRXHG, BRXLG, with a relative target in bytes 2, 3.
_COMPARE_AND_JUMP = frozenset({0x64, 0x65, 0x76, 0x77, 0x7C, 0x7D, 0x7E, 0x7F, 0x44, 0x45})
# CGRB, CLGRB, CRB, CLRB, CGIB, CLGIB, CIB, CLIB: the target is in a register.
_COMPARE_AND_BRANCH = frozenset({0xE4, 0xE5, 0xF6, 0xF7, 0xFC, 0xFD, 0xFE, 0xFF})
# SVC, LPSW, MC; PR; LPSWE, SIE and the branches to another address space.
_LEAVES = frozenset({0x0A, 0x82, 0xAF})
_LEAVES_HALF = frozenset({0x0101, 0xB2B2, 0xB214, 0xB25A, 0xB240, 0xB258, 0xB218, 0xB228})


def decode(code: bytes) -> list[Instruction]:
    """Decode every instruction of a function; an incomplete last one is ignored.

    A halfword that begins with 0 is no instruction, and has the flow UNKNOWN. The kernel refuses all probes after it.
    """
    found = []
    frame = _Frame()
    for offset, size in _places(code):
        each = _instruction(offset, code[offset : offset + size])
        if each.flow is Flow.COMPUTED and frame.restored and code[offset] == _BCR:
            returns = code[offset + 1] & 0xF in frame.loaded
            kind = InstructionKind.RETURN if returns else InstructionKind.JUMP
            each = each._replace(flow=Flow.ENDS, kind=kind)
        frame.follow(code[offset : offset + size], each.flow)
        found.append(each)
    return found


class _Frame:
    """The stack frame at the end of a function, followed over the instructions since the last branch.

    gcc loads the return address from the stack into any register, restores the stack pointer, and jumps to that
    register. A jump after the stack pointer was restored leaves the function: it is a return, or the call of a function
    in place of one. `loaded` are the registers that were loaded from the stack.
    """

    def __init__(self) -> None:
        self.restored = False
        self.loaded: set[int] = set()

    def follow(self, code: bytes, flow: Flow) -> None:
        """Take note of one instruction."""
        if flow not in (Flow.PLAIN, Flow.REFUSED):
            self.restored, self.loaded = False, set()
            return
        first, target = code[0], code[1] >> 4
        if first in (0xE3, 0xEB) and code[5] == 0x04:  # LG, LMG
            last = code[1] & 0xF if first == 0xEB else target
            from_stack = code[2] >> 4 == _STACK and (first == 0xEB or not code[1] & 0xF)
            written = set(range(target, last + 1))
            self.loaded = self.loaded | written if from_stack else self.loaded - written
            self.restored |= _STACK in written
        elif target == _STACK:
            adds = first == _LA or (first, code[-1]) == _LAY or (first, code[1] & 0xF) == _AGHI
            self.restored |= adds


def instruction_starts(code: bytes) -> list[int]:
    """The offset of every instruction up to the first halfword that begins with 0, where the kernel stops decoding."""
    found = []
    for offset, _ in _places(code):
        found.append(offset)
        if not code[offset]:
            break
    return found


def _places(code: bytes) -> Iterator[tuple[int, int]]:
    offset = 0
    while offset + _HALF <= len(code):
        size = instruction_length(code[offset])
        if offset + size > len(code):
            return
        yield offset, size
        offset += size


def _instruction(offset: int, code: bytes) -> Instruction:
    size, first = len(code), code[0]
    halfword = int.from_bytes(code[:_HALF])
    if not first:
        return Instruction(offset, size, Flow.ENDS if halfword == 1 else Flow.UNKNOWN, is_padding=not halfword)
    if halfword == _BRCL_NEVER:
        aim = _target(offset, code[_HALF:])
        return Instruction(offset, size, Flow.NOP, aim if aim != offset else None, is_padding=aim == offset)
    leaving = {2: _short, 4: _middle, 6: _long}[size](offset, code)
    if first in _LEAVES or halfword in _LEAVES_HALF:
        leaving = Flow.ENDS, None, InstructionKind.OTHER
    if leaving:
        flow, target, kind = leaving
        return Instruction(offset, size, flow, target, kind=kind)
    flow = Flow.REFUSED if refusal_reason(halfword) else Flow.PLAIN
    return Instruction(offset, size, flow, is_padding=_does_nothing(code))


_Leaving = tuple[Flow, int | None, InstructionKind] | None


def _short(_: int, code: bytes) -> _Leaving:
    """BCR, BCTR, BASR, BALR, BSM, BASSM: the target is in a register; register 0 means no branch."""
    first, mask, register = code[0], code[1] >> 4, code[1] & 0xF
    if not register or first not in (_BCTR, _BCR, _BASR, _BALR, 0x0B, 0x0C):
        return None
    if first == _BCR:
        return _through_register(mask, register)
    if first == _BCTR:
        return Flow.ENDS, None, InstructionKind.CONDITIONAL
    if first == 0x0B:  # BSM
        return Flow.COMPUTED, None, InstructionKind.JUMP
    return Flow.ENDS, None, InstructionKind.CALL


def _middle(offset: int, code: bytes) -> _Leaving:
    first, digit = code[0], code[1] & 0xF
    if first == 0xA7 and digit in _RELATIVE_16:
        return _relative(code[1] >> 4, _RELATIVE_16[digit], _target(offset, code[2:4]))
    if first in (_BRXH, _BRXLE):
        return Flow.ENDS, _target(offset, code[2:4]), InstructionKind.CONDITIONAL
    if first == _BC:
        base = code[2] >> 4
        if not code[1] >> 4:
            return None
        return _through_register(code[1] >> 4, 0 if code[2:4] != bytes([base << 4, 0]) or digit else base)
    if first in (_BAL, _BAS):
        return Flow.ENDS, None, InstructionKind.CALL
    if first in (_BCT, _BXH, _BXLE):
        return Flow.ENDS, None, InstructionKind.CONDITIONAL
    return None


def _long(offset: int, code: bytes) -> _Leaving:
    first, digit, last = code[0], code[1] & 0xF, code[5]
    if first == 0xC0 and digit in _RELATIVE_32:
        return _relative(code[1] >> 4, _RELATIVE_32[digit], _target(offset, code[2:6]))
    if first == 0xCC and digit == 6:  # BRCTH
        return Flow.ENDS, _target(offset, code[2:6]), InstructionKind.CONDITIONAL
    if first == 0xEC and last in _COMPARE_AND_JUMP:
        return Flow.ENDS, _target(offset, code[2:4]), InstructionKind.CONDITIONAL
    if first == 0xEC and last in _COMPARE_AND_BRANCH:
        return Flow.ENDS, None, InstructionKind.CONDITIONAL
    if (first == 0xEB and last in (0x44, 0x45)) or (first == 0xE3 and last == 0x46):  # BXHG, BXLEG, BCTG
        return Flow.ENDS, None, InstructionKind.CONDITIONAL
    if first == 0xE3 and last == 0x47:  # BIC
        return Flow.COMPUTED, None, InstructionKind.JUMP
    return None


def _relative(mask: int, kind: InstructionKind | None, target: int) -> _Leaving:
    if kind is None and not mask:
        return None
    if kind is None:
        kind = InstructionKind.JUMP if mask == _ALWAYS else InstructionKind.CONDITIONAL
    return Flow.ENDS, target, kind


def _through_register(mask: int, register: int) -> _Leaving:
    if not mask:
        return None
    if mask != _ALWAYS:
        return Flow.ENDS, None, InstructionKind.CONDITIONAL
    if register == _LINK:
        return Flow.ENDS, None, InstructionKind.RETURN
    return Flow.COMPUTED, None, InstructionKind.JUMP


def _target(offset: int, field: bytes) -> int:
    """The place that a relative branch goes to: its field counts halfwords from the instruction's own start."""
    return offset + _HALF * int.from_bytes(field, signed=True)


def _does_nothing(code: bytes) -> bool:
    """True for BCR and BC with mask 0, which fill the space between functions."""
    return code[0] in (_BCR, _BC) and not code[1] >> 4


def addresses_of_words_read(code: bytes, address: int) -> set[int]:
    """The addresses that a function at `address` reads as 64-bit words by LGRL, or by LARL and LG with a constant.

    Instructions are followed in the order of their addresses, branches are not.
    """
    known: dict[int, int] = {}
    found = set()
    for offset, size in _places(code):
        each = code[offset : offset + size]
        opcode, register = (each[0], each[1] & 0xF), each[1] >> 4
        if opcode == (0xC0, 0):  # LARL
            known[register] = address + _target(offset, each[2:6])
        elif opcode == (0xC4, 8):  # LGRL
            found.add(address + _target(offset, each[2:6]))
            known.pop(register, None)
        elif each[0] == 0xE3 and each[-1] in (0x02, 0x04):  # LTG, LG
            bases = [base for base in (each[1] & 0xF, each[2] >> 4) if base]
            if len(bases) == 1 and bases[0] in known:
                high = int.from_bytes(each[4:5], signed=True)
                found.add(known[bases[0]] + (high << 12 | (each[2] & 0xF) << 8 | each[3]))
            known.pop(register, None)
    return found
