"""What a sweep sweeps: every function that can be named, or a sample of them that has one of every kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from enum import Enum

from harness.core.architecture import KprobeTraits
from harness.core.elf import Symbol
from harness.landing.code.functions import evenly, unique_functions
from harness.landing.code.instruction import Flow, Instruction
from harness.landing.code.instructions import decoded_first, first
from harness.landing.layout import Layout
from harness.landing.site import Site

# A kernel of no more functions than this is armed whole when kernels are swept: that takes minutes under emulation.
_FEW = 16_000
# Functions whose resolving takes a small part of a minute under emulation.
_SPREAD_RESOLVED = 1500
# Functions of each kind, and of all kinds, in a sample.
_OF_A_KIND = 3
_SPREAD = 300
# A batch: enough that a grace period and a round trip cost nothing, few enough that progress is seen and that ftrace,
# which copies its list of sites for every site (ftrace_set_hash(), kernel/trace/ftrace.c, 6.1), copies little.
RESOLVED_BATCH = 2000
ARMED_BATCH = 400
# Bytes of an instruction where they are of one width, as they are wherever an entry's kind matters.
_WORD = 4


def eligible(layout: Layout) -> list[Site]:
    """Every function of the kernel's text whose name is unique, by address, and every function of the loaded targets.

    A name that occurs twice means the one that kallsyms finds first: no symbol + offset can ask for the others.
    """
    return [*_kernel(layout), *of_targets(layout)]


class Depth(Enum):
    """How much of a kernel is swept."""

    SAMPLE = "sample"
    """A spread of the kernel's functions resolved, fewer of them armed."""
    KERNEL = "kernel"
    """Every function resolved, and armed on a small kernel; a sample armed on a large one."""
    ALL = "all"
    """Every function resolved and armed."""


def to_resolve(layout: Layout, depth: Depth) -> list[Site]:
    """What is registered disabled; by address."""
    if depth is Depth.SAMPLE:
        return [*evenly(_kernel(layout), _SPREAD_RESOLVED), *of_targets(layout)]
    return eligible(layout)


def to_arm(layout: Layout, depth: Depth) -> list[Site]:
    """What breakpoints are put on; by address."""
    everything = eligible(layout)
    if depth is Depth.ALL or (depth is Depth.KERNEL and len(everything) <= _FEW):
        return everything
    return _sample(layout)


def _sample(layout: Layout) -> list[Site]:
    """Every target function, some of every kind of entry, and entries spread over the kernel's text."""
    functions = unique_functions(layout.kernel)
    kinds: defaultdict[Hashable, list[Symbol]] = defaultdict(list)
    for symbol in functions:
        kinds[_kind(layout, symbol)].append(symbol)
    chosen = {symbol for found in kinds.values() for symbol in evenly(found, _OF_A_KIND)}
    chosen |= set(evenly(functions, _SPREAD))
    return [*(Site(symbol.name) for symbol in functions if symbol in chosen), *of_targets(layout)]


def stepped_wrong(layout: Layout, sites: Sequence[Site]) -> dict[Site, str]:
    """Those of the sites that the kernel steps wrongly if anything comes through them, and the kernel's defect.

    Where kprobes have defects (`defects` in the architecture table), they are those of instructions that do more than
    go on to the next. What stands there is read from outside: alternatives have put branches where the ELF has none
    (apply_alternatives(), arch/parisc/kernel/alternative.c, 6.1).
    """
    kprobes = layout.guest.architecture.kprobes
    if not kprobes.defects:
        return {}
    code = layout.guest.memory.read_many([(layout.address(site), _WORD) for site in sites])
    entries = ((site, decoded_first(word, kprobes.decoder)) for site, word in zip(sites, code, strict=True))
    wrong = {site: entry for site, entry in entries if entry is not None and entry.flow is not Flow.PLAIN}
    return {site: _defect(kprobes, entry) for site, entry in wrong.items()}


def _defect(kprobes: KprobeTraits, entry: Instruction) -> str:
    """The defect of the entry's kind; of a kind that the table has none for, that its entry is stepped like those."""
    known = kprobes.defects.get(entry.kind.value) or next(iter(kprobes.defects.values()))
    return f"its entry is a {entry.kind.value}; {known.why}"


def safe_first(layout: Layout, sites: Sequence[Site]) -> list[Site]:
    """The sites, those that are stepped wrongly last, so that whole batches are of a kind."""
    wrong = stepped_wrong(layout, sites)
    return sorted(sites, key=lambda site: site in wrong)


def batches(sites: Sequence[Site], size: int) -> list[Sequence[Site]]:
    """At most `size` sites each, in their order and spread over all.

    Neighbours call each other, so that with all of them probed one hit is inside of another; parisc enters an endless
    trap when a probe on its trap handler meets any other that is hit.
    """
    count = -(-len(sites) // size)
    return [sites[start::count] for start in range(count)]


def _kernel(layout: Layout) -> list[Site]:
    return [Site(symbol.name) for symbol in unique_functions(layout.kernel)]


def of_targets(layout: Layout) -> list[Site]:
    """Every function of the loaded targets that stays."""
    return [
        Site(symbol.name, module=target.module)
        for target in layout.targets.values()
        for symbol in target.functions(target.lasting, unique=True, preambles=False)
        if not symbol.section.startswith(".exit")
    ]


def _kind(layout: Layout, symbol: Symbol) -> Hashable:
    """What distinguishes entries: the instruction's flow and size, and the part of a function it begins."""
    entry = first(layout.kernel, symbol, layout.guest.architecture.kprobes.decoder)
    part = next((word for word in symbol.name.split(".")[:0:-1] if not word.isdigit()), "")
    return (entry and (entry.flow, entry.size, entry.target is not None)), part
