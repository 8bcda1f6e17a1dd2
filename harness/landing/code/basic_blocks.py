"""Groups of instructions that run equally often in every call of a function, and the padding between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf, Symbol
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.instructions import LEAVING_FLOWS, branch_targets_from_cold, decode_function, has_delay_slots

# Instructions after which, and after their delay slot if they have one, only a branch target runs.
_LEAVING_KINDS = frozenset(
    {InstructionKind.JUMP, InstructionKind.LONE_JUMP, InstructionKind.RETURN, InstructionKind.LONE_RETURN}
)


def group_equally_run_offsets(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> tuple[tuple[int, ...], ...]:
    """Group the offsets of a function's instructions so that all members of a group run equally often.

    A group ends before each branch target and after each instruction that can change the flow of control. A delay slot
    is a group of its own, and so is an instruction that may be nullified, or that is conditional. If the function has a
    computed jump, its branch targets are unknown, and every instruction is a group of its own. Raises PinpointError as
    `decoded` does.
    """
    code = decode_function(elf, symbol, decoder)
    alone = any(each.flow is Flow.COMPUTED for each in code)
    begins = {each.target for each in code} | branch_targets_from_cold(elf, symbol, decoder)
    slots = 1 + has_delay_slots(decoder)
    for place, each in enumerate(code):
        if each.flow in LEAVING_FLOWS or each.flow is Flow.SKIPS:
            after = 2 if each.flow is Flow.SKIPS else slots
            begins |= {later.offset for later in code[place + 1 : place + 1 + after]}
        if each.is_conditional:
            begins |= {each.offset, each.end}
    groups: list[list[int]] = []
    for each in code:
        if alone or not groups or each.offset in begins:
            groups.append([])
        groups[-1].append(each.offset)
    return tuple(map(tuple, groups))


def offsets_of_padding_between_parts(code: Sequence[Instruction], *, delay_slots: bool) -> Iterator[int]:
    """Yield the offsets of nops behind a jump or a return, which align the next part of a function and never run.

    A nop in a delay slot is one of them, though it runs.
    """
    dead, slot = False, False
    for each in code:
        leaves = each.kind in _LEAVING_KINDS
        dead = leaves or (dead and (slot or each.is_padding))
        if dead and each.is_padding:
            yield each.offset
        slot = leaves and delay_slots
