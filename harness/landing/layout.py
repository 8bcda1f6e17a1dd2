"""Computes addresses in one guest from the ELF files: the kernel's with its slide, modules' with their sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.images.image import Image
from harness.landing.code.bug_table import linked_bug_addresses
from harness.landing.code.closest_symbol import ClosestSymbolTable, CombinedSymbolTables, LoadedSymbol
from harness.landing.code.entry_shift import entry_shift
from harness.landing.code.function_selection import filter_functions
from harness.landing.code.instruction import Flow, Instruction
from harness.landing.code.instructions import (
    decode_function,
    first_accepted_offset,
    instruction_boundaries,
    offsets_inside_instructions,
    once_per_call_boundaries,
    without_branches_that_end_probing,
)
from harness.landing.code.kernel_file import kernel_file
from harness.landing.code.patch_sites import table_addresses
from harness.landing.code.patch_tables import JUMPS, STATIC_CALLS
from harness.landing.code.symbol_confirmations import SymbolConfirmations, symbol_confirmations
from harness.landing.linked_symbols import (
    closest_as_linked,
    functions_by_link_address,
    functions_first,
    lasting_sections,
)
from harness.landing.site import Site
from harness.landing.target import KERNEL_FUNCTIONS, Target

# The first symbol of the kernel's text: it is in every vmlinux and in every /proc/kallsyms.
ANCHOR = "_stext"
_slides: WeakKeyDictionary[Guest, int] = WeakKeyDictionary()


class LoadedTarget(NamedTuple):
    """A module with its ELF file and the load addresses of its sections, by section name."""

    module: str
    elf: Elf
    sections: Mapping[str, int]

    @property
    def lasting_sections(self) -> set[str]:
        """The sections that stay loaded; sysfs still lists those of the initializer after they are freed."""
        return {name for name in self.sections if not name.startswith(".init")}


class ConsecutiveFunctionDistance(NamedTuple):
    """Two consecutive functions in a module's file, and the bytes between their starts, in the file and loaded."""

    first_function: str
    second_function: str
    bytes_in_file: int
    bytes_loaded: int


class Layout:
    """The addresses of the kernel and the loaded targets in one guest, computed from their ELF files."""

    def __init__(
        self,
        guest: Guest,
        targets: Iterable[Target] = (),
        image_of: Callable[[str], Image] | None = None,
        *,
        others: Iterable[LoadedTarget] = (),
    ) -> None:
        """`others` are loaded modules that are not targets. `image_of` prepares the image of a VM, by its name."""
        self.guest = guest
        self.kernel = kernel_file(guest.image)
        self.targets = {target.module: target for target in targets}
        self.modules: dict[str, Target | LoadedTarget] = {**self.targets, **{each.module: each for each in others}}
        self._image_of = image_of

    @cached_property
    def sibling_kernel(self) -> Elf | None:
        """The vmlinux of the same source and configuration with another order of functions; None if there is none.

        Its image is prepared on first use.
        """
        name = self.guest.image.recipe.kernel.sibling
        return kernel_file(self._image_of(name)) if name and self._image_of else None

    @property
    def other_module_builds(self) -> dict[str, Elf]:
        """The files of the targets' other builds, which have another layout, by target name."""
        files = self.guest.image.modules
        return {name: Elf.read_cached(files[f"rebuilt/{name}"]) for name in self.targets if f"rebuilt/{name}" in files}

    @cached_property
    def slide(self) -> int:
        """The distance from link address to load address of the kernel, in bytes; 0 without KASLR.

        It is measured once for each guest.
        """
        if self.guest not in _slides:
            _slides[self.guest] = self._measure_slide()
        return _slides[self.guest]

    def measure_slide(self) -> None:
        """Measure the slide while the guest answers: a witness table may be formatted after its guest has ended."""
        _ = self.slide

    @parsing_guest_text("/proc/kallsyms")
    def _measure_slide(self) -> int:
        listing = self.guest.run("grep", "-m1", f" {ANCHOR}$", "/proc/kallsyms").check().stdout
        running = int(listing.split()[0], 16)
        if running == 0:
            raise GuestError("/proc/kallsyms shows zeros", where=self.guest.name, mend="kptr_restrict must be 0")
        return running - self.kernel.symbols_named(ANCHOR)[0].address

    def elf_and_symbol(self, site: Site) -> tuple[Elf, Symbol]:
        """The ELF file and the function that a site names.

        If several functions have the name, it is the one that the kernel finds: in the kernel the function with the
        lowest address, in a module the first in the symbol table (kallsyms_lookup_name(),
        find_kallsyms_symbol_value(), 6.1).
        """
        elf = self.modules[site.module].elf if site.module else self.kernel
        named = [symbol for symbol in elf.symbols_named(site.symbol) if symbol.kind == "func"]
        if len(named) > 1:
            return elf, named[0] if site.module else min(named, key=lambda symbol: symbol.address)
        return elf, named[0] if named else elf.function(site.symbol)

    def probe_address(self, site: Site) -> int:
        """The address where a probe on the site must land, computed from the ELF file.

        If an entry begins with a landing pad, the kernel puts the probe after it (arch_adjust_kprobe_addr(), since
        5.19). Where it moves only what is asked for by name, it moves only symbol + 0 (`entry_shift`).
        """
        elf, symbol = self.elf_and_symbol(site)
        address = self.symbol_address(symbol, site.module) + site.offset
        if self._moves_only_names:
            return address + (0 if site.offset else self.entry_shift_of(elf, symbol))
        entered = [symbol] if not site.offset else self._entered_past_end(site, symbol, address)
        return address + max((self.landing_pad_size_of(elf, entry) for entry in entered), default=0)

    def _entered_past_end(self, site: Site, symbol: Symbol, address: int) -> list[Symbol]:
        """The functions whose entry is at the address of a site past the end of its function, in any section."""
        if site.offset < symbol.size:
            return []
        if not site.module:
            return functions_by_link_address(self.kernel).get(address - self.slide, [])
        return [each for each in self.functions(site.module) if self.symbol_address(each, site.module) == address]

    def symbol_confirmed_by(self, site: Site) -> tuple[str, ...] | None:
        """The other tables of the vmlinux that confirm the site's symbol; None for a module's site."""
        return None if site.module else self.symbol_confirmations.sources_of(self.elf_and_symbol(site)[1])

    @property
    def symbol_confirmations(self) -> SymbolConfirmations:
        """The sources that are independent of the symbols of this kernel's file."""
        return symbol_confirmations(self.kernel, self.guest.image.debug_symbols)

    def landing_pad_size(self, site: Site) -> int:
        """The size of the landing pad at the start of the site's function, in bytes; 0 if it has none."""
        return self.landing_pad_size_of(*self.elf_and_symbol(site))

    def landing_pad_size_of(self, elf: Elf, symbol: Symbol) -> int:
        """The size of the landing pad at the start of a function; two functions of one name can differ in it.

        It is 0 where the kernel moves only what is asked for by name.
        """
        return 0 if self._moves_only_names else self.entry_shift_of(elf, symbol)

    def entry_shift_of(self, elf: Elf, symbol: Symbol) -> int:
        """The distance from a function's symbol to a probe on symbol + 0, by name."""
        return entry_shift(elf, symbol, self.guest.architecture.kprobe_traits)

    @property
    def _moves_only_names(self) -> bool:
        """True if the kernel moves symbol + 0 to the local entry, but no address (kprobe_lookup_name(), powerpc)."""
        return self.guest.architecture.kprobe_traits.probes_local_entry

    def address_to_request(self, site: Site) -> int:
        """The address by which a probe is requested that must land where one on the site does."""
        return self.probe_address(site) if self._moves_only_names else self.symbol_start(site) + site.offset

    def symbol_start(self, site: Site) -> int:
        """The load address of the site's symbol; a probe on an entry may land after it, see `probe_address`."""
        _, symbol = self.elf_and_symbol(site)
        return self.symbol_address(symbol, site.module)

    def entry_site(self, site: Site) -> Site:
        """The site at the first instruction of the site's function that every call runs and that can be probed."""
        return site.at_offset(self.entry_offset(*self.elf_and_symbol(site)))

    def entry_offset(self, elf: Elf, symbol: Symbol) -> int:
        """The offset of a function's first instruction, or of its second if ftrace occupies the first.

        A kernel without KPROBES_ON_FTRACE refuses the instruction that ftrace patches (check_ftrace_location(),
        kernel/kprobes.c). On RISC-V in 6.12 that is the first one. Where the kernel moves symbol + 0 by name only, it
        is where that probe lands, so that it is the same by name and by address.
        """
        if self._moves_only_names:
            return self.entry_shift_of(elf, symbol)
        return first_accepted_offset(elf, symbol, self.decoder)

    def instruction_sites(self, site: Site) -> list[Site]:
        """Sites at all instructions of the site's function. Raises PinpointError if they cannot be decoded."""
        elf, symbol = self.elf_and_symbol(site)
        return [site.at_offset(offset) for offset in instruction_boundaries(elf, symbol, self.decoder)]

    def once_per_call_sites(self, site: Site, count: int | None = None) -> list[Site]:
        """Sites at the entry of the site's function and at inner boundaries that run exactly once a call.

        `count` limits their number. Raises GuestError if the function has fewer.
        """
        elf, symbol = self.elf_and_symbol(site)
        offsets = once_per_call_boundaries(elf, symbol, self.decoder)[:count]
        if len(offsets) < (count or 1):
            raise GuestError(f"{site} has only {len(offsets)} boundaries in a straight line", where=self.guest.name)
        return [site.at_offset(offset) for offset in offsets]

    def site_behind_entry(self, site: Site) -> Site:
        """The site at the third boundary that runs exactly once a call, or at the second if there are only two."""
        line = self.once_per_call_sites(site)
        if len(line) == 1:
            raise GuestError(f"{site} has no boundary in a straight line but its entry", where=self.guest.name)
        return line[:3][-1]

    def called_kernel_function(self, count: int) -> Site:
        """The first of KERNEL_FUNCTIONS with so many boundaries that run exactly once a call.

        Raises GuestError if none has.
        """
        sites = [Site(name) for name in KERNEL_FUNCTIONS]
        found = next((site for site in sites if len(self.once_per_call_sites(site)) >= count), None)
        if found is None:
            reason = f"none of {', '.join(KERNEL_FUNCTIONS)} has {count} boundaries in a straight line"
            raise GuestError(reason, where=self.guest.name)
        return found

    def next_instruction_site(self, site: Site) -> Site:
        """The site at the instruction after the one that a probe lands on, or at the end of the function."""
        _, symbol = self.elf_and_symbol(site)
        return site.at_offset(next((each.offset for each in self._after_landing(site)), symbol.size))

    def next_accepted_site(self, site: Site) -> Site | None:
        """The site at the function's next instruction on which the kernel accepts a probe; None after the last."""
        not_probed = (Flow.REFUSED, Flow.EXCLUSIVE, Flow.JUMPED_OVER, Flow.WRITTEN_BY_FTRACE, Flow.UNKNOWN)
        code = without_branches_that_end_probing(self._after_landing(site), self.guest.architecture.kprobe_traits)
        later = (each for each in code if each.flow not in not_probed and not each.is_padding)
        start = self.symbol_start(site)
        refused = () if site.module else self._patched_or_trapping
        return next((site.at_offset(each.offset) for each in later if start + each.offset not in refused), None)

    @cached_property
    def _patched_or_trapping(self) -> frozenset[int]:
        """The addresses of the kernel's static branches, static calls and traps, which refuse kprobes with EINVAL."""
        tables = (table_addresses(self.kernel, table) for table in (JUMPS, STATIC_CALLS))
        traps = linked_bug_addresses(self.kernel, self.guest.image.config)
        return frozenset(address + self.slide for each in (*tables, traps) for address in each)

    def _after_landing(self, site: Site) -> Iterator[Instruction]:
        """The function's instructions after the one that a probe on the site lands on."""
        elf, symbol = self.elf_and_symbol(site)
        lands = self.probe_address(site) - self.symbol_address(symbol, site.module)
        return (each for each in decode_function(elf, symbol, self.decoder) if each.offset > lands)

    def mid_instruction_sites(self, site: Site) -> list[Site]:
        """Sites at every offset of the site's function that is inside an instruction or misaligned."""
        elf, symbol = self.elf_and_symbol(site)
        return [site.at_offset(offset) for offset in offsets_inside_instructions(elf, symbol, self.decoder)]

    @cached_property
    def decoder(self) -> DecoderKind:
        """The decoder that finds instruction boundaries in this guest's code."""
        return self.guest.architecture.kprobe_traits.decoder

    def symbol_address(self, symbol: Symbol, module: str) -> int:
        """The load address of a symbol: section address + offset in a module, link address + slide in the kernel."""
        if not module:
            return symbol.address + self.slide
        section = self.modules[module].sections.get(symbol.section)
        if section is None:
            raise GuestError(f"{module} has no section {symbol.section} in sysfs", where=self.guest.name)
        return section + symbol.address

    def consecutive_function_distances(self, module: str) -> list[ConsecutiveFunctionDistance]:
        """The gaps between consecutive functions of a module, in the file and loaded."""
        target = self.targets[module]
        functions = sorted(
            (
                target.elf.sections_by_name[symbol.section].offset + symbol.address,
                self.symbol_address(symbol, module),
                symbol,
            )
            for symbol in target.functions(target.lasting_sections)
            if symbol.section.startswith(".text")
        )
        return [
            ConsecutiveFunctionDistance(left[2].name, right[2].name, right[0] - left[0], right[1] - left[1])
            for left, right in pairwise(functions)
        ]

    def function_bytes(self, site: Site) -> bytes:
        """The bytes of the site's function in its ELF file, without relocations applied."""
        elf, symbol = self.elf_and_symbol(site)
        return elf.function_bytes(symbol)

    def describe_address(self, address: int) -> str:
        """The closest symbol at or below an address, as `sym+0xoff [mod]`."""
        return str(self.closest_symbols.symbol_offset_at(address) or "nothing known")

    @cached_property
    def closest_symbols(self) -> CombinedSymbolTables:
        """Every symbol that kallsyms can list, by load address; functions precede other symbols of an address."""
        modules: list[LoadedSymbol] = []
        for module, target in self.modules.items():
            # On 64-bit PowerPC the initializer's symbols stay, too.
            freed = self.guest.traits.module_initializers_freed
            sections = target.lasting_sections if freed else set(target.sections)
            if not self.guest.traits.data_symbols:
                # is_core_symbol(), kernel/module/kallsyms.c, 6.1
                code = {each.name for each in target.elf.sections_by_name.values() if each.executable}
                sections = sections & code
            symbols = functions_first(target.elf, sections)
            modules += [LoadedSymbol(self.symbol_address(symbol, module), symbol.name, module) for symbol in symbols]
        return CombinedSymbolTables((closest_as_linked(self.kernel), self.slide), (ClosestSymbolTable(modules), 0))

    def functions(self, module: str, *, preambles: bool = True, empty: bool = True) -> list[Symbol]:
        """Return the functions of a target that stay in memory, or of the kernel if `module` is empty.

        Functions in freed initializer sections are left out, because that memory may be in use for something else.
        """
        if module:
            target = self.targets[module]
            return target.functions(target.lasting_sections, preambles=preambles, empty=empty)
        return filter_functions(self.kernel, lasting_sections(self.kernel), preambles=preambles, empty=empty)

    @property
    def text_range(self) -> range:
        """The load addresses of the kernel's text, from `_stext` up to, but not including, `_etext`."""
        linked = self.kernel.text_range
        return range(linked.start + self.slide, linked.stop + self.slide)
