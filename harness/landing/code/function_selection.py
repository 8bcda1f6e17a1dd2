"""Selects functions of an ELF file, compares the functions of two kernels, and reads the kprobe blacklist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from harness.core.elf import Elf, Symbol
from harness.guest.guest import Guest

_Any = TypeVar("_Any")

# Symbols around code that a CPU runs while it takes another trap. The kernel accepts a probe there, but cannot handle
# the trap of its breakpoint: the CPU hangs (SPARC, arch/sparc/kernel/head_64.S and what it includes, 6.1).
_TRAP_CODE = {"EM_SPARCV9": ("_stext", "swapper_tsb")}

BLACKLIST = "/sys/kernel/debug/kprobes/blacklist"
# Symbols that precede a function (objtool --prefix, since 6.2; clang's kernel CFI). The kernel refuses a probe there.
PREAMBLES = ("__cfi_", "__pfx_")


def filter_functions(
    elf: Elf,
    sections: Collection[str] | None = None,
    *,
    unique: bool = False,
    preambles: bool = True,
    empty: bool = True,
) -> list[Symbol]:
    """Select functions of an ELF file, in the order of its symbol table.

    `sections` restricts them to these sections; None allows any. `unique` drops every function whose name occurs twice
    in the file, in any section, because symbol + offset cannot distinguish them. `preambles=False` drops the symbols
    that precede a function (PREAMBLES), `empty=False` the functions of size 0.
    """
    chosen = None if sections is None else frozenset(sections)
    return list(_filtered(elf, chosen, unique=unique, preambles=preambles, empty=empty))


@lru_cache(maxsize=32)
def _filtered(
    elf: Elf, sections: frozenset[str] | None, *, unique: bool, preambles: bool, empty: bool
) -> Sequence[Symbol]:
    """A tenth of a second for a kernel, and some cases select from it for each site."""
    found = [each for each in elf.symbols if each.kind == "func" and (preambles or not each.name.startswith(PREAMBLES))]
    named = Counter(symbol.name for symbol in found)
    return tuple(
        symbol
        for symbol in found
        if (sections is None or symbol.section in sections)
        and (not unique or named[symbol.name] == 1)
        and (empty or symbol.size)
    )


def functions_named_once(elf: Elf) -> list[Symbol]:
    """The functions whose names occur once in the whole file, in the order of their addresses, without preambles."""
    named = Counter(symbol.name for symbol in elf.symbols if symbol.section)
    functions = (
        symbol
        for symbol in elf.symbols
        if symbol.kind == "func" and named[symbol.name] == 1 and not symbol.name.startswith(PREAMBLES)
    )
    return sorted(functions, key=lambda symbol: symbol.address)


@lru_cache(maxsize=8)
def text_functions_named_once(elf: Elf) -> Sequence[Symbol]:
    """The functions of `.text` whose names occur once in the whole file, in the order of their addresses.

    Functions in _TRAP_CODE are left out.
    """
    left_out = _trap_code(elf)
    return tuple(
        symbol
        for symbol in functions_named_once(elf)
        if symbol.address in elf.text_range and not any(symbol.address in each for each in left_out)
    )


def _trap_code(elf: Elf) -> list[range]:
    begin, end = _TRAP_CODE.get(elf.machine, ("", ""))
    return [
        range(first.address, last.address)
        for first, last in zip(elf.symbols_named(begin), elf.symbols_named(end), strict=False)
    ]


def functions_with_new_predecessor(kernel: Elf, other: Path) -> list[Symbol]:
    """Functions of `kernel` that follow a different function in `other`; only functions of both kernels count."""
    here, there = text_functions_named_once(kernel), text_functions_named_once(Elf.read_cached(other))
    shared = {symbol.name for symbol in here} & {symbol.name for symbol in there}
    follows = {name: before for before, name in pairwise(symbol.name for symbol in there if symbol.name in shared)}
    ours = [symbol for symbol in here if symbol.name in shared]
    return [symbol for before, symbol in pairwise(ours) if follows.get(symbol.name) != before.name]


def evenly_spread(found: Sequence[_Any], count: int) -> list[_Any]:
    """At most `count` of the elements, evenly spread."""
    taken = min(count, len(found))
    return [found[index * len(found) // taken] for index in range(taken)]


def read_blacklist_ranges(guest: Guest) -> list[tuple[int, int]]:
    """The address ranges that the kernel refuses to probe, from lines `START-END NAME` (kernel/kprobes.c, 6.1).

    The areas that the architecture refuses without listing them are included.
    """
    found = list(_ranges(guest.read_text(BLACKLIST).splitlines()))
    kprobes = guest.architecture.kprobe_traits
    areas = ((f"__{area}_text_start", f"__{area}_text_end") for area in kprobes.areas_missing_in_blacklist)
    missing = [*areas, *kprobes.refused_symbol_ranges]
    if missing:
        pattern = " \\(" + "\\|".join(name for pair in missing for name in pair) + "\\)$"
        lines = guest.run_script(f"grep '{pattern}' /proc/kallsyms").stdout.splitlines()
        marks = {line.split()[2]: int(line.split()[0], 16) for line in lines}
        found += [(marks[begin], marks[end]) for begin, end in missing]
    return found


def _ranges(lines: Iterable[str]) -> Iterable[tuple[int, int]]:
    for line in lines:
        start, _, end = line.split()[0].partition("-")
        yield int(start, 16), int(end, 16)
