"""Arms kprobes by bare address, on functions that no symbol names alone, and reads memory at each from outside."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.elf import Symbol
from harness.landing import probe_module
from harness.landing.code.instructions import first_accepted_offset, instruction_at_function_start
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.probe_run import read_until_stable, read_when_restored

_SHOWN = 5


def without_defects_at_entry(layout: Layout, symbols: Sequence[Symbol]) -> list[Symbol]:
    """The kernel functions whose first instruction is of no kind that the architecture is documented to step wrong."""
    defect_of_kind = layout.guest.architecture.kprobe_traits.defect_of_kind
    entries = (
        instruction_at_function_start(
            layout.kernel, symbol, layout.decoder, landing_pad=layout.landing_pad_size_of(layout.kernel, symbol)
        )
        for symbol in symbols
    )
    return [
        symbol
        for symbol, entry in zip(symbols, entries, strict=True)
        if entry is None or defect_of_kind(entry.kind.value) is None
    ]


def prove_armed_by_address(layout: Layout, symbols: Sequence[Symbol], mutant: Mutant = HONEST) -> int:
    """Arm a kprobe on the entry of each kernel function by its address; return how many the kernel took.

    The kernel must report and list each one at the entry, after a landing pad, and memory there must change into what a
    kprobe writes and back. Raises Missed. Which refusals are right is not looked at here. Where the kernel refuses the
    first instruction for ftrace, the second is probed.
    """
    guest, kprobes = layout.guest, layout.guest.architecture.kprobe_traits
    starts = [
        layout.symbol_address(symbol, "") + first_accepted_offset(layout.kernel, symbol, layout.decoder)
        for symbol in symbols
    ]
    lands = [
        start + layout.landing_pad_size_of(layout.kernel, symbol) for start, symbol in zip(starts, symbols, strict=True)
    ]
    spans = [(address, max(patch.size for patch in kprobes.patches)) for address in lands]

    def read() -> list[bytes]:
        return read_until_stable(lambda: guest.memory.read_many(spans))

    before = read()
    view = probe_module.load_probe_module(guest, [f"@{start:#x}" for start in starts], mutant.parameters(layout, ()))
    during = read()
    probe_module.unload_probe_module(guest)
    after = read_when_restored(guest, read, before)
    listed = {each.address for each in view.newly_listed(view.listed_before_load)}
    wrong, armed = [], 0
    for symbol, address, report, *memory in zip(symbols, lands, view.reports, before, during, after, strict=True):
        if report.errno:
            continue
        armed += 1
        was, had, left = memory
        if report.address != address:
            wrong.append(f"{symbol.name} at {address:#x}: registered at {report.address:#x}")
        elif address not in listed:
            wrong.append(f"{symbol.name} at {address:#x}: not listed")
        elif had == was or not any(patch.matches(had) for patch in kprobes.patches):
            wrong.append(f"{symbol.name} at {address:#x}: no kprobe in memory, but {had.hex()}, before {was.hex()}")
        elif left != was:
            wrong.append(f"{symbol.name} at {address:#x}: {left.hex()} after the removal, before {was.hex()}")
    if wrong:
        raise Missed(f"{len(wrong)} of {armed} kprobes by address:\n" + "\n".join(wrong[:_SHOWN]))
    return armed
