"""How far after a function's symbol the kernel puts a probe on symbol + 0."""

from __future__ import annotations

from harness.core.architecture import KprobeTraits
from harness.core.elf import Elf, Symbol
from harness.landing.code.decode_ppc64 import local_entry_offset
from harness.landing.code.patch_sites import LINKED, ftrace_sites

# "ftrace location is always within the first 16 bytes of a function" (kprobe_lookup_name(), arch/powerpc, 6.1).
_FTRACE_WITHIN = 16


def entry_shift(elf: Elf, symbol: Symbol, kprobes: KprobeTraits) -> int:
    """Return the distance in bytes from a function's symbol to a probe on symbol + 0; 0 if they are the same.

    It is the size of a landing pad (arch_adjust_kprobe_addr(), arch/x86/kernel/kprobes/core.c, since 5.19), or the
    distance to ftrace's site or to the local entry (kprobe_lookup_name(), arch/powerpc/kernel/kprobes.c, 6.1).
    """
    if kprobes.probes_local_entry:
        place, start = (LINKED, symbol.address) if elf.linked else (symbol.section, elf.offset_in_section(symbol))
        sites = ftrace_sites(elf).starts_within(place, start, _FTRACE_WITHIN + 1)
        return sites[0] - start if sites else local_entry_offset(elf.function_bytes(symbol))
    pad = kprobes.entry_landing_pad
    return len(pad) if pad and elf.function_bytes(symbol)[: len(pad)] == pad else 0
