"""The address of a data symbol: from the ELF files, from the kernel, and from the module that defines it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError
from harness.guest.result import parsing_guest_text
from harness.landing.code.closest_symbol import KernelSymbolOffset
from harness.landing.code.kernel_file import name_in_kallsyms
from harness.landing.five_address_witnesses import Statement
from harness.landing.layout import Layout
from harness.landing.linked_symbols import closest_as_linked
from harness.landing.systemtap_relocation_by_hand import first_text_section_in_file

_PER_CPU_END = "__per_cpu_end"


@dataclass(frozen=True)
class Datum:
    """A variable, or `size` bytes of it from `offset` on.

    `module` is the module that defines it, empty for vmlinux. `cpu` is set for a per-CPU variable and selects the copy
    of that CPU.
    """

    symbol: str
    size: int
    module: str = ""
    offset: int = 0
    cpu: int | None = None

    def __str__(self) -> str:
        where = f" [{self.module}]" if self.module else ""
        return f"{self.symbol}+{self.offset:#x}{where}{'' if self.cpu is None else f' of CPU {self.cpu}'}"


def find_elf_and_symbol(layout: Layout, datum: Datum) -> tuple[Elf, Symbol]:
    """The ELF file and the symbol that a datum names. Raises GuestError unless exactly one symbol has the name."""
    elf = layout.targets[datum.module].elf if datum.module else layout.kernel
    found = elf.symbols_named(datum.symbol)
    if len(found) != 1:
        raise GuestError(f"{len(found)} symbols are named {datum.symbol}", where=str(elf.path))
    return elf, found[0]


def address_by_elf(layout: Layout, datum: Datum) -> int:
    """The address from the ELF file: section + offset in a module, link address + slide in vmlinux.

    For a per-CPU variable this is its per-CPU pointer, to which the kernel adds the offset of a CPU.
    """
    elf, symbol = find_elf_and_symbol(layout, datum)
    return _loaded(layout, datum, elf, symbol) + datum.offset


def address_by_text_base(layout: Layout, datum: Datum) -> int:
    """The address of a module's datum, computed as the 2008 letter forbids: text address + distance in the file."""
    elf, symbol = find_elf_and_symbol(layout, datum)
    loaded = layout.targets[datum.module].sections
    text = first_text_section_in_file(elf, loaded)
    distance = elf.sections_by_name[symbol.section].offset + elf.offset_in_section(symbol) - text.offset
    return loaded[text.name] + distance + datum.offset


def address_of_next_symbol(layout: Layout, datum: Datum) -> int:
    """The address of the next symbol in the datum's section, or of the section's end after its last symbol.

    A mutant uses it.
    """
    elf, symbol = find_elf_and_symbol(layout, datum)
    behind = [other for other in elf.symbols if other.section == symbol.section and other.address > symbol.address]
    section = elf.sections_by_name[symbol.section]
    end = min((other.address for other in behind), default=section.address + section.size)
    return address_by_elf(layout, datum) + end - symbol.address


def _loaded(layout: Layout, datum: Datum, elf: Elf, symbol: Symbol) -> int:
    if not datum.module:
        return symbol.address + (0 if _is_offset(elf, symbol) else layout.slide)
    if symbol.section in layout.targets[datum.module].sections:
        return layout.symbol_address(symbol, datum.module)
    return _relocated(layout, datum, elf, symbol)


def _is_offset(elf: Elf, symbol: Symbol) -> bool:
    """True for a per-CPU variable if the kernel links per-CPU data at zero (x86_64 with SMP); it does not slide."""
    bounds = [elf.symbols_named(name) for name in ("__per_cpu_start", "__per_cpu_end")]
    if not all(bounds):
        return False
    start, end = (found[0].address for found in bounds)
    return start == 0 and symbol.address < end


def _relocated(layout: Layout, datum: Datum, elf: Elf, symbol: Symbol) -> int:
    """The address of a symbol whose section sysfs does not list, read from a pointer that the module loader relocated.

    With SMP a module's per-CPU section is not part of the loaded module: layout_and_allocate() (kernel/module/main.c,
    6.1) clears its SHF_ALLOC, and add_sect_attrs() skips it. The target has a pointer to each such word; its name has
    `_place` where the name of the word has `_word`.
    """
    pointer = elf.symbols_named(datum.symbol.replace("_word", "_place"))
    if len(pointer) != 1:
        raise GuestError(f"{symbol.section} is not in sysfs, and nothing points to {datum.symbol}", where=str(elf.path))
    content = layout.guest.memory.read(layout.symbol_address(pointer[0], datum.module), elf.word_bytes)
    return int.from_bytes(content, elf.byte_order)


@parsing_guest_text("/proc/kallsyms")
def kallsyms_statement(layout: Layout, datum: Datum) -> Statement:
    """The address in /proc/kallsyms.

    It lists data only with KALLSYMS_ALL, a module's data too (is_core_symbol(), 6.1).
    """
    owner = f"[{datum.module}]" if datum.module else ""
    found = layout.guest.run("grep", "-w", "-F", datum.symbol, "/proc/kallsyms").stdout.splitlines()
    split = ([*line.split(), ""] for line in found)
    named = ((words[0], name_in_kallsyms(layout.guest.image, words[2]), words[3]) for words in split)
    places = [int(address, 16) for address, name, module in named if (name, module) == (datum.symbol, owner)]
    if len(places) != 1:
        return Statement("kallsyms", None, f"lists it {len(places)} times")
    return Statement("kallsyms", places[0] + datum.offset)


def closest_symbol_statement(layout: Layout, datum: Datum, address: int, shown: KernelSymbolOffset | None) -> Statement:
    """The datum's address if the kernel finds its symbol closest to `address` (sprint_symbol()).

    This needs data symbols in kallsyms. Without them, the kernel names a module's data by the module's last function,
    at any distance below it (find_kallsyms_symbol(), kernel/module/kallsyms.c, 6.1).
    """
    if shown is None or not layout.guest.traits.data_symbols:
        return Statement("closest", None, f"the kernel calls it {shown}")
    shown = shown.named_as_in(layout.kernel)
    place = layout.closest_symbols.symbol_offset_at(address)
    names = place.names if place else ()
    if datum.cpu is not None and _is_per_cpu_end(layout, shown, address):
        return Statement("closest", address + datum.offset, f"{shown}, which ends where the variable begins")
    if datum.cpu is not None and _is_named_by_kernel(layout, shown, address):
        return Statement(
            "closest", address + datum.offset, f"{shown}, vmlinux's closest symbol, which takes precedence"
        )
    if datum.symbol not in names or not shown.is_same_place(place):
        return Statement("closest", None, f"another symbol, {shown}", contradicts=True)
    return Statement("closest", address - shown.offset + datum.offset, str(shown))


def _is_per_cpu_end(layout: Layout, shown: KernelSymbolOffset, address: int) -> bool:
    """True if the kernel names an address by a symbol of vmlinux at the end of the kernel's own per-CPU data.

    If the kernel links per-CPU data among its other data (seen on x86_64, 7.3, and on riscv64, 6.12), the first
    module's per-CPU data begins exactly at the linker's mark of that end, and a name in vmlinux takes precedence over
    one in a module (kallsyms_lookup_buildid(), kernel/kallsyms.c). Other marks of the linker may be at its address.
    """
    ends = {mark.address for mark in layout.kernel.symbols_named(_PER_CPU_END)}
    named = (symbol.address for symbol in layout.kernel.symbols_named(shown.name))
    return (shown.offset, shown.module) == (0, "") and any(
        place in ends and place + layout.slide == address for place in named
    )


def _is_named_by_kernel(layout: Layout, shown: KernelSymbolOffset, address: int) -> bool:
    """True if a per-CPU pointer is between `__per_cpu_end` and `_end` and is named by vmlinux's closest symbol.

    PowerPC links per-CPU data among its other data and reserves nothing for modules (setup_per_cpu_areas(),
    arch/powerpc/kernel/setup_64.c, 6.1), so that a module's data is anywhere after the kernel's own.
    """
    marks = [layout.kernel.symbols_named(name) for name in (_PER_CPU_END, "_end")]
    linked = address - layout.slide
    if not all(marks) or not marks[0][0].address <= linked < marks[1][0].address:
        return False
    return shown.is_same_place(closest_as_linked(layout.kernel).symbol_offset_at(linked))


@parsing_guest_text("the parameter of a module")
def target_parameter_statement(layout: Layout, datum: Datum) -> Statement:
    """The address that the target itself has for the datum, from its parameter `data`."""
    if not datum.module:
        return Statement("module", None, "vmlinux has no such parameter")
    listing = layout.guest.read_text(f"/sys/module/{datum.module}/parameters/data")
    places = dict(line.split() for line in listing.splitlines())
    if datum.symbol not in places:
        return Statement("module", None, "not listed in the target's parameter `data`")
    return Statement("module", int(places[datum.symbol], 16) + datum.offset)


class VariablesShiftedBetweenKernels(NamedTuple):
    """Counts of variables that two kernels have in common.

    `common_variables` counts all of them, `shifted_from_text` those whose distance from `_stext` differs between the
    kernels, `shifted_from_data` those whose distance from `_sdata` differs.
    """

    common_variables: int
    shifted_from_text: int
    shifted_from_data: int


def count_variables_shifted_between_kernels(kernel: Elf, other: Elf) -> VariablesShiftedBetweenKernels:
    """Count the variables that relocation by hand would miss with offsets made for the other kernel."""
    here, there = _variables(kernel), _variables(other)
    shared = here.keys() & there.keys()
    missed = []
    for base in ("_stext", "_sdata"):
        moved = kernel.symbols_named(base)[0].address - other.symbols_named(base)[0].address
        missed.append(sum(here[name] - there[name] != moved for name in shared))
    return VariablesShiftedBetweenKernels(len(shared), *missed)


def _variables(kernel: Elf) -> dict[str, int]:
    """The addresses of variables whose names occur once, without per-CPU variables, which do not slide."""
    data = {name for name, each in kernel.sections_by_name.items() if each.allocated and not each.executable}
    named = Counter(symbol.name for symbol in kernel.symbols)
    return {
        symbol.name: symbol.address
        for symbol in kernel.symbols
        if symbol.kind == "object" and named[symbol.name] == 1 and symbol.section in data - {".data..percpu"}
    }
