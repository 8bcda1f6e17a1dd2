"""Groups of instructions that run equally often in every call of a function."""

from __future__ import annotations

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf, Symbol
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import LEAVING_FLOWS, branch_targets_from_cold, decode_function, has_delay_slots


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
