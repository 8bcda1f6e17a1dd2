"""Groups of instructions that run equally often in every call of a function."""

from __future__ import annotations

from harness.core.architecture import Decoder
from harness.core.elf import Elf, Symbol
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import LEAVES, aimed_at_from_cold, decoded, has_delay_slots


def even_runs(elf: Elf, symbol: Symbol, decoder: Decoder) -> tuple[tuple[int, ...], ...]:
    """The offsets of all instructions of a function, in groups of which each member runs as often as the others.

    A group ends before whatever is branched to, and behind whatever can leave the line; a delay slot, and what a
    nullifying instruction may leave out, stand alone. The targets of a computed jump are unknown: every
    instruction of such a function stands alone. Raises PinpointError as `decoded` does.
    """
    code = decoded(elf, symbol, decoder)
    alone = any(each.flow is Flow.COMPUTED for each in code)
    begins = {each.target for each in code} | aimed_at_from_cold(elf, symbol, decoder)
    slots = 1 + has_delay_slots(decoder)
    for place, each in enumerate(code):
        if each.flow in LEAVES or each.flow is Flow.SKIPS:
            after = 2 if each.flow is Flow.SKIPS else slots
            begins |= {later.offset for later in code[place + 1 : place + 1 + after]}
    groups: list[list[int]] = []
    for each in code:
        if alone or not groups or each.offset in begins:
            groups.append([])
        groups[-1].append(each.offset)
    return tuple(map(tuple, groups))
