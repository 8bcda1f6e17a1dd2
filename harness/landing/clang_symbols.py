"""Functions whose symbols only clang writes: those behind a preamble, and those with a suffix in the kernel's file.

clang's CFI (-fsanitize=kcfi) writes a preamble with the hash of a function's type before each function that can be
called indirectly; its symbol is `__cfi_f`. The kernel refuses a probe on a preamble (is_cfi_preamble_symbol(),
kernel/kprobes.c, 6.1). Thin link-time optimization appends `.llvm.HASH` to names of static functions (kernel_file.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError
from harness.landing.code.function_selection import text_functions_named_once
from harness.landing.code.kernel_file import LLVM_SUFFIX, short_name
from harness.landing.layout import Layout
from harness.landing.probe_module import ProbeModuleRequest
from harness.landing.site import Site

_PREAMBLE = "__cfi_"


def preamble(layout: Layout, site: Site) -> Symbol | None:
    """Return the preamble of a site's function; None if the function has none, or shares its name."""
    elf, function = layout.elf_and_symbol(site)
    found = elf.symbols_named(f"{_PREAMBLE}{site.symbol}")
    if len(found) != 1 or found[0].section != function.section or len(elf.symbols_named(site.symbol)) != 1:
        return None
    return found[0]


def kernel_functions_with_preamble(layout: Layout) -> list[Symbol]:
    """Return the functions of the kernel's text that have a preamble, in the order of their addresses."""
    named = text_functions_named_once(layout.kernel)
    return [each for each in named if preamble(layout, Site(each.name)) is not None]


def kernel_functions_with_suffix(layout: Layout) -> list[Symbol]:
    """Return the functions that the kernel's file names `f.llvm.HASH` and that alone are named `f`, as in the file."""
    return [
        each
        for each in text_functions_named_once(Elf.read_cached(layout.kernel.path))
        if LLVM_SUFFIX in each.name and len(layout.kernel.symbols_named(short_name(each.name))) == 1
    ]


def request_behind_preambles(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """Request each site by the symbol of its function's preamble, and the offset from there."""
    return _from_preambles(layout, sites, passed=True)


def request_without_preambles(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """Request each site by the preamble's symbol and the offset from the function: too low by the preamble's size."""
    return _from_preambles(layout, sites, passed=False)


def request_by_names_in_file(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """Request each site of the kernel by the symbol in the kernel's file, with the suffix."""
    named = {each.address: each.name for each in kernel_functions_with_suffix(layout)}
    names = [named[layout.elf_and_symbol(site)[1].address] for site in sites]
    return ProbeModuleRequest([Site(name, site.offset).spec for name, site in zip(names, sites, strict=True)])


def _from_preambles(layout: Layout, sites: Sequence[Site], *, passed: bool) -> ProbeModuleRequest:
    specs = []
    for site in sites:
        before = preamble(layout, site)
        if before is None:
            raise GuestError(f"{site.symbol} has no preamble", where=layout.guest.name)
        size = layout.elf_and_symbol(site)[1].address - before.address
        specs.append(Site(before.name, site.offset + (size if passed else 0), module=site.module).spec)
    return ProbeModuleRequest(specs)
