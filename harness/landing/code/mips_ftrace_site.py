"""The instructions at the place where ftrace patches a function of MIPS (arch/mips/kernel/ftrace.c, 6.1).

In the kernel it is a `jal` to the tracer, which becomes a nop, so that its delay slot is an instruction like any other.
In a module it is the first of two instructions that load the tracer's address, which becomes a branch over these, the
copy of the return address, and the call.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.elf import Elf, Symbol
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.patch_sites import LINKED, ftrace_sites

_KERNEL = "_stext"
# MCOUNT_OFFSET_INSNS and the branch: lui, daddiu, move, jalr and its delay slot.
_JUMPED_OVER = 5
# A probe on the delay slot of the branch or of the call is refused.
_FLOWS_IN_MODULE = (Flow.REFUSED, Flow.REFUSED, Flow.JUMPED_OVER, Flow.JUMPED_OVER, Flow.REFUSED)
_FLOWS_IN_KERNEL = (Flow.REFUSED, Flow.PLAIN)


def site_offset(elf: Elf, symbol: Symbol) -> int | None:
    """Return the offset of the instruction that ftrace patches, from the file's table; None if there is none.

    A linked file without the kernel's first symbol is a program.
    """
    if elf.linked and not elf.symbols_named(_KERNEL):
        return None
    place, start = (LINKED, symbol.address) if elf.linked else (symbol.section, elf.offset_in_section(symbol))
    return next((site - start for site in ftrace_sites(elf).starts_within(place, start, symbol.size)), None)


def first_accepted_offset(elf: Elf, symbol: Symbol) -> int:
    """Return 0, or the offset after the code of ftrace if the function begins with it and cannot be probed there."""
    return 4 * _JUMPED_OVER if not elf.linked and site_offset(elf, symbol) == 0 else 0


def settled(elf: Elf, symbol: Symbol, found: Sequence[Instruction]) -> list[Instruction]:
    """Return a function's instructions with the flows that those of the site have while ftrace does not trace it."""
    site = site_offset(elf, symbol)
    if site is None:
        return list(found)
    flows = _FLOWS_IN_KERNEL if elf.linked else _FLOWS_IN_MODULE
    return [
        each._replace(flow=flows[place], target=None, kind=InstructionKind.OTHER)
        if 0 <= (place := (each.offset - site) // 4) < len(flows)
        else each
        for each in found
    ]
