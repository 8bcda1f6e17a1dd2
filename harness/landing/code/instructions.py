"""Finds the places for probes in a function: instruction boundaries, and those that each call runs exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from harness.core.architecture import DecoderKind, KprobeTraits
from harness.core.elf import Elf, Symbol
from harness.core.elf_symbols_and_relocations import is_branch
from harness.core.errors import PinpointError
from harness.landing.code import mips_ftrace_site
from harness.landing.code.decoder_machines import DecoderMachine, decoder_machines
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.patch_sites import LINKED, ftrace_sites

# The size of the longest instruction, in bytes, rounded up.
_LONGEST = 16


def decode_function(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> list[Instruction]:
    """Decode a function, without the padding that is included in a symbol size from kallsyms.

    A branch whose target is set by a relocation has no target. The instruction that ftrace patches is PLAIN or REFUSED.
    """
    machine = decoder_machines()[decoder]
    code = elf.function_bytes(symbol)
    code = _without_most_padding(code, machine.padding_byte) if symbol.size_includes_padding else code
    found = machine.decode_at(code, symbol.address) if machine.decode_at else machine.decode(code)
    slots = frozenset({Flow.ENDS, Flow.COMPUTED}) if machine.delay_slots else frozenset()
    # A nop in a delay slot is none between functions.
    while symbol.size_includes_padding and len(found) > 1 and found[-1].is_padding and found[-2].flow not in slots:
        found.pop()
    unknown = next((each for each in found if each.flow is Flow.UNKNOWN), None)
    if not found or (unknown and not machine.sizes_known):
        raise PinpointError(
            f"no instruction is known at {symbol.name}+{unknown.offset if unknown else 0:#x}", where=str(elf.path)
        )
    if elf.linked:
        aims = machine.absolute_targets(code, symbol.address)
        found = [each._replace(target=aims[each.offset]) if each.offset in aims else each for each in found]
    if machine.ftrace_code_in_table:
        return _with_relocated_targets(elf, symbol, mips_ftrace_site.settled(elf, symbol, found))
    patched = _ftrace_site(elf, symbol, machine, found)
    on_ftrace = Flow.PLAIN if machine.probed_on_ftrace else Flow.REFUSED
    unaimed = (
        set()
        if elf.linked
        else elf.relocated_positions_within_range(symbol.section, elf.offset_in_section(symbol), symbol.size)
    )
    last = found[machine.entry_nops - 1].offset if patched is not None and machine.patches_all_nops else patched
    behind = Flow.WRITTEN_BY_FTRACE if machine.checks_last_nop else Flow.PLAIN
    settled = [_settled(each, patched, last, (on_ftrace, behind), unaimed) for each in found]
    return _with_relocated_targets(elf, symbol, settled)


def _with_relocated_targets(elf: Elf, symbol: Symbol, found: Sequence[Instruction]) -> list[Instruction]:
    inside = _relocated_branch_targets(elf, symbol)
    return [each._replace(target=inside[each.offset]) if each.offset in inside else each for each in found]


def _without_most_padding(code: bytes, padding: bytes) -> bytes:
    """Cut off padding at the end, except for as many bytes as the last instruction may have of the same value.

    A megabyte of padding follows the last symbols of a kernel's text; decoding it takes gigabytes of memory.
    """
    return code[: len(code.rstrip(padding)) + _LONGEST] if padding else code


def instruction_boundaries(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> tuple[int, ...]:
    """The offsets of all instructions of a function, in order.

    Raises PinpointError if the function has no bytes, or has bytes that cannot be decoded where instructions differ in
    size.
    """
    return tuple(each.offset for each in decode_function(elf, symbol, decoder))


def once_per_call_boundaries(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> tuple[int, ...]:
    """The offsets that every call runs exactly once and on which the kernel accepts a probe.

    They reach from the entry to the first instruction that can change the flow of control (a branch, a call, a nop that
    may be a static key) or that is the target of a branch. Instructions that may be skipped, or that may skip others,
    are left out. The targets of a computed jump are unknown, so a function with such a jump has no offsets. Raises
    PinpointError as `instruction_boundaries` does.
    """
    code = decode_function(elf, symbol, decoder)
    if any(each.flow is Flow.COMPUTED for each in code):
        return ()
    aimed_at = {each.target for each in code} | branch_targets_from_cold(elf, symbol, decoder)
    return tuple(_line(code, aimed_at))


def plain_instruction_offsets(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> frozenset[int]:
    """The offsets of PLAIN instructions that are never skipped, not conditional, and not in a delay slot.

    Raises PinpointError as `instruction_boundaries` does.
    """
    code = decode_function(elf, symbol, decoder)
    leaving = {Flow.SKIPS, Flow.ENDS, Flow.COMPUTED} if decoder_machines()[decoder].delay_slots else {Flow.SKIPS}
    skippable = {each.end for each in code if each.flow in leaving}
    plain = (each for each in code if each.flow is Flow.PLAIN and not each.is_conditional)
    return frozenset(each.offset for each in plain if each.offset not in skippable)


def without_branches_that_end_probing(code: Iterable[Instruction], kprobes: KprobeTraits) -> Iterator[Instruction]:
    """Yield the instructions, without those after whose probe the kernel runs no probe's handler any more (MIPS)."""
    listed = list(code)
    for each, following in zip_longest(listed, listed[1:]):
        skips_slot = following is not None and following.is_padding
        if not (skips_slot and f"{each.kind.value}-before-nop" in kprobes.defects):
            yield each


def instruction_starts_of_function(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> Iterable[int]:
    """The offsets of all instructions, padding included.

    It is faster than `instruction_boundaries`, because no instruction is classified.
    """
    return decoder_machines()[decoder].starts(elf.function_bytes(symbol))


def instruction_starts_in_bytes(code: bytes, decoder: DecoderKind) -> Iterable[int]:
    """The offsets of all instructions in some bytes, decoded from the first byte."""
    return decoder_machines()[decoder].starts(code)


def is_padding(code: bytes, decoder: DecoderKind) -> bool:
    """True for bytes that only fill the space after a function: nops, traps, zeros."""
    return all(each.is_padding for each in decoder_machines()[decoder].decode(code))


def is_padding_instruction_at(code: bytes, offset: int, decoder: DecoderKind) -> bool:
    """True if the instruction at an offset, decoded from the first byte of the code, is padding."""
    return any(each.is_padding for each in decoder_machines()[decoder].decode(code) if each.offset <= offset < each.end)


def is_stub_at(code: bytes, offset: int, decoder: DecoderKind) -> bool:
    """True if an offset is in a stub that a linker or a module loader made for a far call."""
    return any(start <= offset < end for start, end in decoder_machines()[decoder].stubs(code))


def offsets_inside_instructions(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> tuple[int, ...]:
    """The offsets inside of PLAIN instructions, where the kernel refuses a probe.

    Offsets inside of branches, calls and nops are left out. The kernel may patch these at boot or later, and a patch
    may consist of shorter instructions, so that an instruction can start at such an offset.
    """
    plain = (each for each in decode_function(elf, symbol, decoder) if each.flow is Flow.PLAIN)
    return tuple(offset for each in plain for offset in range(each.offset + 1, each.end))


def instruction_at_function_start(
    elf: Elf, symbol: Symbol, decoder: DecoderKind, *, landing_pad: int = 0
) -> Instruction | None:
    """A function's first instruction after its `landing_pad`, in bytes; None for a function without bytes there."""
    return decode_first_instruction(elf.function_bytes(symbol)[landing_pad : landing_pad + _LONGEST], decoder)


def decode_first_instruction(code: bytes, decoder: DecoderKind) -> Instruction | None:
    """The first instruction in some bytes; None if there are no bytes."""
    return next(iter(decoder_machines()[decoder].decode(code)), None)


def first_accepted_offset(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> int:
    """The offset of a function's first instruction; of the first after ftrace's if the kernel refuses that one."""
    machine = decoder_machines()[decoder]
    if machine.ftrace_code_in_table:
        return mips_ftrace_site.first_accepted_offset(elf, symbol)
    if machine.probed_on_ftrace or not machine.patches_all_nops:
        return 0
    found = machine.decode(elf.function_bytes(symbol)[:_LONGEST])
    return found[1].offset if _ftrace_site(elf, symbol, machine, found) == 0 else 0


def offsets_of_relocations_to_prefix(elf: Elf, symbol: Symbol, prefix: str) -> set[int]:
    """Offsets into a module's function of relocations to a symbol with this prefix; empty for a linked file."""
    if elf.linked:
        return set()
    place = elf.offset_in_section(symbol)
    found = elf.relocations(symbol.section)
    return {each.offset - place for each in found if each.symbol.name.startswith(prefix)}


def addresses_of_words_read(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> set[int]:
    """The linked addresses that a function of an executable reads words of, where the decoder can find them."""
    return decoder_machines()[decoder].loads(elf.function_bytes(symbol), symbol.address)


def size_before_function(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> int:
    """The size of what the compiler put before the first function of a section; 0 for most architectures.

    It is data of the function (ppc64le), or nops of -fpatchable-function-entry=4,2 (arm64 since 6.4).
    """
    machine = decoder_machines()[decoder]
    before = elf.section_bytes(symbol.section, 0, elf.offset_in_section(symbol))
    nops = machine.decode(before)
    if before and len(nops) == machine.entry_nops and all(each.flow is Flow.NOP and each.is_padding for each in nops):
        return len(before)
    return machine.data_before(elf.function_bytes(symbol))


def longest_instruction_size(decoder: DecoderKind) -> int:
    """The size of the longest instruction, in bytes."""
    return decoder_machines()[decoder].longest


def has_delay_slots(decoder: DecoderKind) -> bool:
    """True if the instruction after a branch runs before the branch takes effect."""
    return decoder_machines()[decoder].delay_slots


def ftrace_site_offset(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> int | None:
    """The offset of the instruction that ftrace patches; None for a function that ftrace does not trace."""
    return _ftrace_site(
        elf, symbol, decoder_machines()[decoder], decoder_machines()[decoder].decode(elf.function_bytes(symbol))
    )


def _line(code: Sequence[Instruction], aimed_at: set[int | None]) -> Iterator[int]:
    skipped = False
    for each in code:
        if each.flow in LEAVING_FLOWS or (each.offset and each.offset in aimed_at):
            return
        if each.flow is Flow.PLAIN and not (skipped or each.is_conditional):
            yield each.offset
        skipped = each.flow is Flow.SKIPS


# After an instruction with one of these flows the next instruction need not run.
LEAVING_FLOWS = frozenset({Flow.ENDS, Flow.COMPUTED, Flow.UNKNOWN, Flow.NOP})


def _relocated_branch_targets(elf: Elf, symbol: Symbol) -> dict[int, int]:
    """The targets of branches of a module's function inside of its section, by offset, from their relocations."""
    if elf.linked:
        return {}
    place = elf.offset_in_section(symbol)
    return {
        each.offset - place: each.symbol.address + each.addend - symbol.address
        for each in elf.relocations(symbol.section)
        if place <= each.offset < place + symbol.size
        and each.symbol.section == symbol.section
        and is_branch(elf.machine, each)
    }


def _settled(
    each: Instruction, patched: int | None, last: int | None, at_site: tuple[Flow, Flow], unaimed: set[int]
) -> Instruction:
    if last is not None and each.offset <= last and each.flow in LEAVING_FLOWS:
        flow = at_site[0] if each.offset == patched else at_site[1]
        return each._replace(flow=flow, target=None, kind=InstructionKind.OTHER)
    if each.target is not None and not unaimed.isdisjoint(range(each.offset, each.end)):
        return each._replace(target=None)
    return each


def _ftrace_site(elf: Elf, symbol: Symbol, machine: DecoderMachine, found: Sequence[Instruction]) -> int | None:
    if machine.ftrace_code_in_table:
        return mips_ftrace_site.site_offset(elf, symbol)
    pad = machine.entry_pad
    start = len(pad) if pad and elf.function_bytes(symbol).startswith(pad) else 0
    first = [each for each in found if each.offset >= start][: max(1, machine.entry_nops)]
    if machine.entry_nops:
        # A static key can be a nop, too, but has a target.
        nops = len(first) == machine.entry_nops and all(each.flow is Flow.NOP and each.is_padding for each in first)
        return first[0 if machine.patches_all_nops else -1].offset if nops else None
    if first and first[0].flow is Flow.NOP and _in_ftrace_table(elf, symbol, first[0]):
        return first[0].offset
    calls = first if machine.tracer_called_at_entry else (each for each in found if each.kind is InstructionKind.CALL)
    return next((each.offset for each in calls if _calls(elf, symbol, each, machine.tracer)), None)


def _in_ftrace_table(elf: Elf, symbol: Symbol, nop: Instruction) -> bool:
    """True for a call of the tracer that objtool has already replaced by a nop (CONFIG_FTRACE_MCOUNT_USE_OBJTOOL)."""
    place = LINKED if elf.linked else symbol.section
    start = (symbol.address if elf.linked else elf.offset_in_section(symbol)) + nop.offset
    found = ftrace_sites(elf).site_at(place, start)
    return found is not None and found.start == start


def _calls(elf: Elf, symbol: Symbol, call: Instruction, name: str) -> bool:
    if call.target is None:
        return False
    if elf.linked:
        return any(found.address == symbol.address + call.target for found in elf.symbols_named(name))
    covered = range(elf.offset_in_section(symbol) + call.offset, elf.offset_in_section(symbol) + call.end)
    return any(found.symbol.name == name and found.offset in covered for found in elf.relocations(symbol.section))


def branch_targets_from_cold(elf: Elf, symbol: Symbol, decoder: DecoderKind) -> set[int]:
    """Offsets that branches in the function's `.cold` part, which gcc moved out of line, may go back to.

    In a module such a branch has a relocation with the section of the function and an addend. On x86 the addend is
    relative to four bytes before the end of the instruction, so both the sum and the sum plus four are included.
    """
    aimed_at: set[int] = set()
    for cold in elf.symbols_named(f"{symbol.name}.cold"):
        start = elf.offset_in_section(cold)
        for found in elf.relocations(cold.section):
            if start <= found.offset < start + cold.size and found.symbol.section == symbol.section:
                reached = found.symbol.address + found.addend - symbol.address
                aimed_at |= {reached, reached + 4}
        if elf.linked:
            distance = cold.address - symbol.address
            branches = decoder_machines()[decoder].decode(elf.function_bytes(cold))
            aimed_at |= {distance + each.target for each in branches if each.target is not None}
    return aimed_at
