"""Selects the sites of a sweep: every function with a unique name, or a sample with some of every kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from enum import Enum

from harness.core.architecture import KprobeTraits
from harness.core.elf import Symbol
from harness.landing.code.decoder_machines import decoder_machines
from harness.landing.code.function_selection import evenly_spread, text_functions_named_once
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.instructions import (
    decode_first_instruction,
    first_accepted_offset,
    instruction_at_function_start,
)
from harness.landing.layout import Layout
from harness.landing.site import Site

# A kernel with at most this many functions is armed completely at Depth.KERNEL; it takes minutes under emulation.
_FEW = 16_000
# The number of functions to resolve in a sample; it takes a small part of a minute under emulation.
_SPREAD_RESOLVED = 1500
# The number of functions of each kind, and of functions of any kind, in a sample.
_OF_A_KIND = 3
_SPREAD = 300
# Batch sizes. They are large enough that the grace period and the round trip of each batch do not matter. They are
# small enough that progress is visible, and that ftrace, which copies its list of sites for every site
# (ftrace_set_hash(), kernel/trace/ftrace.c, 6.1), copies little.
RESOLVED_BATCH = 2000
ARMED_BATCH = 400
# Bytes of a page; the instruction at its end is read no further than to there.
_PAGE = 4096


def entry_sites_with_unique_names(layout: Layout) -> list[Site]:
    """Every function of the kernel's text with a unique name, by address, and every function of the loaded targets.

    For a name that occurs twice kallsyms finds only the first function, so symbol + offset cannot name the others.
    """
    return [*_kernel(layout), *target_entry_sites(layout)]


def without_defective_entries(layout: Layout, sites: Sequence[Site]) -> list[Site]:
    """Leave out entries that end in a wrong state of the kernel, by a documented defect, if the guest runs meanwhile.

    They make a stack frame (PowerPC, `stack_store_waits`), are taken for a return (SuperH), or are of a function that
    handles each probe's breakpoint.
    """
    handlers = layout.guest.architecture.kprobe_traits.trap_handlers_functions
    sites = [site for site in sites if site.module or site.symbol not in handlers]
    left_out = {InstructionKind.TAKEN_FOR_RETURN} if _takes_for_return(layout) else set()
    if layout.guest.image.recipe.defects.stack_store_waits:
        left_out.add(InstructionKind.STACK_STORE)
    return [site for site in sites if _kind_of_entry(layout, site) not in left_out] if left_out else sites


def _takes_for_return(layout: Layout) -> bool:
    return InstructionKind.TAKEN_FOR_RETURN.value in layout.guest.architecture.kprobe_traits.defects


def _kind_of_entry(layout: Layout, entry: Site) -> InstructionKind | None:
    elf, symbol = layout.elf_and_symbol(entry)
    pad = layout.entry_shift_of(elf, symbol)
    probed = instruction_at_function_start(elf, symbol, layout.decoder, landing_pad=pad)
    return probed and probed.kind


class Depth(Enum):
    """How much of a kernel is swept."""

    SAMPLE = "sample"
    """A sample of the kernel's functions is resolved, and a smaller sample is armed."""
    KERNEL = "kernel"
    """Every function is resolved; every function of a small kernel, but only a sample of a large one, is armed."""
    ALL = "all"
    """Every function is resolved and armed."""


def sites_to_register_disabled(layout: Layout, depth: Depth) -> list[Site]:
    """The sites to register disabled, by address."""
    if depth is Depth.SAMPLE:
        return [*evenly_spread(_kernel(layout), _SPREAD_RESOLVED), *target_entry_sites(layout)]
    return entry_sites_with_unique_names(layout)


def sites_to_arm(layout: Layout, depth: Depth) -> list[Site]:
    """The sites to arm, by address."""
    everything = entry_sites_with_unique_names(layout)
    if depth is Depth.ALL or (depth is Depth.KERNEL and len(everything) <= _FEW):
        return everything
    return _sample(layout)


def _sample(layout: Layout) -> list[Site]:
    """Some entries of every kind, entries spread over the kernel's text, and every function of the targets."""
    functions = text_functions_named_once(layout.kernel)
    kinds: defaultdict[Hashable, list[Symbol]] = defaultdict(list)
    for symbol in functions:
        kinds[_kind(layout, symbol)].append(symbol)
    chosen = {symbol for found in kinds.values() for symbol in evenly_spread(found, _OF_A_KIND)}
    chosen |= set(evenly_spread(functions, _SPREAD))
    entries = (_entry(layout, symbol) for symbol in functions if symbol in chosen)
    return [*entries, *target_entry_sites(layout)]


# Flows of instructions that are never stepped wrongly.
_STEPPED = (Flow.PLAIN, Flow.NOP)


def defects_of_wrongly_stepped(layout: Layout, sites: Sequence[Site]) -> dict[Site, str]:
    """Map the sites that the kernel may step wrongly, if they are hit, to the kernel's documented defect, "" for none.

    If the architecture's kprobes have defects (`defects` in the architecture table), these are the sites on
    instructions whose flow is neither PLAIN nor NOP, and those in functions that handle each probe's breakpoint. The
    instructions are read from outside, because alternatives put branches where the ELF file has none
    (apply_alternatives(), arch/parisc/kernel/alternative.c, 6.1).
    """
    kprobes = layout.guest.architecture.kprobe_traits
    handlers = kprobes.trap_handlers_functions
    handling = {site: handlers[site.symbol] for site in sites if not site.module and site.symbol in handlers}
    if not kprobes.defects:
        return handling
    longest = decoder_machines()[kprobes.decoder].longest
    addresses = [layout.probe_address(site) for site in sites]
    code = layout.guest.memory.read_many([(each, min(longest, _PAGE - each % _PAGE)) for each in addresses])
    entries = ((site, decode_first_instruction(word, kprobes.decoder)) for site, word in zip(sites, code, strict=True))
    wrong = {site: entry for site, entry in entries if entry is not None and entry.flow not in _STEPPED}
    found = {site: _defect(kprobes, entry) for site, entry in wrong.items()}
    return found | handling


def _defect(kprobes: KprobeTraits, entry: Instruction) -> str:
    """The defect for the entry's kind; "" if the table has none, so that a site that kills the guest is unexplained."""
    known = kprobes.defect_of_kind(entry.kind.value)
    return f"its entry is a {entry.kind.value}; {known.cause}" if known else ""


def divide_into_batches_to_arm(layout: Layout, sites: Sequence[Site]) -> list[Sequence[Site]]:
    """Divide the sites into batches to arm; sites that may be stepped wrongly are in batches of their own, at the end.

    A hit of such a site may cause an oops after which the kernel runs on, and hits others. Then neither the last hit
    nor the first batch names the site that did it. On s390x 109 of 32,881 functions begin with a conditional branch.
    """
    wrong = defects_of_wrongly_stepped(layout, sites)
    safe = divide_into_spread_batches([site for site in sites if site not in wrong], ARMED_BATCH)
    return [*safe, *divide_into_spread_batches([site for site in sites if site in wrong], ARMED_BATCH)]


def divide_into_spread_batches(sites: Sequence[Site], size: int) -> list[Sequence[Site]]:
    """Divide the sites into batches of at most `size`; each batch is in order and spread over all sites.

    Neighboring functions call each other. If all of them were probed, one hit would be inside of another. parisc enters
    an endless trap if there is a probe on its trap handler and any other probe is hit.
    """
    count = -(-len(sites) // size)
    return [sites[start::count] for start in range(count)]


def _kernel(layout: Layout) -> list[Site]:
    return [_entry(layout, symbol) for symbol in text_functions_named_once(layout.kernel)]


def _entry(layout: Layout, symbol: Symbol) -> Site:
    return Site(symbol.name, first_accepted_offset(layout.kernel, symbol, layout.decoder))


def target_entry_sites(layout: Layout) -> list[Site]:
    """Every function of the loaded targets that stays loaded, without those in `.exit` sections."""
    return [
        layout.entry_site(Site(symbol.name, module=target.module))
        for target in layout.targets.values()
        for symbol in target.functions(target.lasting_sections, unique=True, preambles=False)
        if not symbol.section.startswith(".exit")
    ]


def _kind(layout: Layout, symbol: Symbol) -> Hashable:
    """The kind of an entry: flow and size of the instruction that is probed, and the part of the function there."""
    pad = layout.entry_shift_of(layout.kernel, symbol)
    entry = instruction_at_function_start(layout.kernel, symbol, layout.decoder, landing_pad=pad)
    part = next((word for word in symbol.name.split(".")[:0:-1] if not word.isdigit()), "")
    return (entry and (entry.flow, entry.size, entry.target is not None)), part
