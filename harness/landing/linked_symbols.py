"""What all layouts of one kernel share: the symbols and functions of its file, by link address."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from contextlib import suppress
from functools import lru_cache

from harness.core.elf import Elf, Symbol
from harness.core.errors import PinpointError
from harness.core.pause_garbage_collector import garbage_collector_paused
from harness.images.image import Image
from harness.landing.code.closest_symbol import ClosestSymbolTable, LoadedSymbol
from harness.landing.code.function_selection import filter_functions
from harness.landing.code.kernel_file import kernel_file
from harness.landing.code.patch_sites import patch_sites


def preload_kernel_file(image: Image) -> None:
    """Read what every layout of a kernel needs of its file, so that a guest can start meanwhile: seconds of work.

    Raises nothing: a layout of the kernel raises the error of what cannot be read.
    """
    with suppress(PinpointError, OSError), garbage_collector_paused():
        kernel = kernel_file(image)
        patch_sites(kernel)
        closest_as_linked(kernel)


def lasting_sections(vmlinux: Elf) -> set[str]:
    """The sections of a kernel that stay in memory."""
    return {name for name in vmlinux.sections_by_name if not name.startswith(".init")}


@lru_cache(maxsize=8)
def functions_by_link_address(vmlinux: Elf) -> Mapping[int, list[Symbol]]:
    """The functions that stay in memory, by link address."""
    found: defaultdict[int, list[Symbol]] = defaultdict(list)
    for symbol in filter_functions(vmlinux, lasting_sections(vmlinux)):
        found[symbol.address].append(symbol)
    return found


@lru_cache(maxsize=8)
def closest_as_linked(vmlinux: Elf) -> ClosestSymbolTable:
    """The kernel's symbols by link address; all guests share this table, because a kernel has over 100,000 symbols."""
    return ClosestSymbolTable(
        LoadedSymbol(symbol.address, symbol.name) for symbol in functions_first(vmlinux, vmlinux.sections_by_name)
    )


def functions_first(elf: Elf, sections: Container[str]) -> list[Symbol]:
    """The symbols in these sections, functions first; the sort is stable, so each kind keeps the table's order."""
    standing = (each for each in elf.symbols if each.section in sections and each.kind not in ("section", "file"))
    return sorted(standing, key=lambda symbol: symbol.kind != "func")
