"""Measures the symbol tables in a probe module, by hand and by symbol, compiled for the guest's architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harness.core import process
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import BuildError
from harness.landing.site import Site
from harness.landing.systemtap_relocation_by_hand import RelocationByHandCalculator

_COMPILE_S = 120.0
# Systemtap 0.6 compiled into every probe module the symbols of the whole kernel (struct _stp_symbol, runtime/sym.h),
# independent of what is probed, and for each probe the distance from its base.
_BY_HAND = """
static const struct { unsigned long addr; const char *symbol; } symbols[] __attribute__((used)) = { %s };
"""
_BY_HAND_SITES = """
static const unsigned long sites[] __attribute__((used)) = { %s };
"""
# The kernel finds the address of a struct kprobe from its symbol_name and its offset.
_BY_SYMBOL = """
static const struct { const char *symbol_name; unsigned int offset; } sites[] __attribute__((used)) = { %s };
"""


class RelocationDataSizes(NamedTuple):
    """Sizes in a loaded probe module, in bytes.

    `table` is the symbol table that relocation by hand needs, independent of what is probed. `by_hand` is that table
    and a site for every function. `by_symbol` is a site for every function, as symbol + offset.
    """

    table: int
    by_hand: int
    by_symbol: int


def measure_compiled_relocation_data(
    architecture: Architecture, by_hand: RelocationByHandCalculator, sites: Iterable[Site]
) -> RelocationDataSizes:
    """Compile the tables for these functions. Raises BuildError when the compiler refuses."""
    offsets = {site.symbol: by_hand.offset(site) for site in sites}
    pairs = ",\n".join(f'{{ {offset:#x}, "{name}" }}' for name, offset in offsets.items())
    names = ",\n".join(f'{{ "{name}", 0 }}' for name in offsets)
    table = _compiled(architecture, _BY_HAND % pairs)
    own = _compiled(architecture, _BY_HAND_SITES % ",\n".join(f"{offset:#x}" for offset in offsets.values()))
    return RelocationDataSizes(table, table + own, _compiled(architecture, _BY_SYMBOL % names))


def _compiled(architecture: Architecture, source: str) -> int:
    """The bytes that the objects and strings of a C source take in memory."""
    with tempfile.TemporaryDirectory(prefix="pinpoint-") as directory:
        text, made = Path(directory, "table.c"), Path(directory, "table.o")
        text.write_text(source)
        compiler = f"{architecture.cross_prefix}gcc"
        ended = process.run([compiler, "-O2", "-c", "-o", made, text], deadline=Deadline.after(_COMPILE_S))
        if ended.rc:
            raise BuildError(f"{compiler} failed to compile a table of symbols: {ended.output.strip()[:200]}")
        sections = Elf.read(made).allocated_sections
    return sum(section.size for section in sections if not section.executable)
