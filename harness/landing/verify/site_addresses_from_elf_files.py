"""Every ELF file at hand for one guest: the kernel's, and each loaded module's; where they have a symbol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.core.architecture import KprobeTraits
from harness.core.elf import Elf, Symbol
from harness.landing.code.function_descriptors import has_dotted_functions
from harness.landing.code.system_map import SystemMap
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.verify.loaded_modules import LoadedModule


@dataclass(frozen=True)
class SitePlace:
    """One place that a site can mean.

    `address` already includes a landing pad of `landing_pad_size` bytes at the entry.
    """

    address: int
    symbol: Symbol
    landing_pad_size: int = 0


@dataclass(frozen=True)
class SitePlaces:
    """Every place that a site can mean, in the order of addresses; `missing_reason` is why there is none."""

    places: tuple[SitePlace, ...] = ()
    missing_reason: str = ""

    @property
    def addresses(self) -> list[int]:
        """The addresses of the places."""
        return [place.address for place in self.places]

    def place_at(self, address: int) -> SitePlace | None:
        """The place at an address, None when none is there."""
        return next((place for place in self.places if place.address == address), None)


class LoadedFiles:
    """The files, and where they are loaded."""

    def __init__(self, layout: Layout, modules: Mapping[str, LoadedModule], names: SystemMap | None = None) -> None:
        self.layout = layout
        self.modules = modules
        self._names = names

    @property
    def slide(self) -> int:
        """Bytes between where the kernel was linked and where it runs."""
        return self.layout.slide

    @property
    def kprobe_traits(self) -> KprobeTraits:
        """What a kprobe looks like in this guest."""
        return self.layout.guest.architecture.kprobe_traits

    def elf_of_module(self, module: str) -> Elf | None:
        """The file of a module, the kernel's for an empty name; None where none is at hand."""
        if not module:
            return self.layout.kernel
        return self.modules[module].elf if module in self.modules else None

    def find_places(self, site: Site, *, as_listed: bool = False) -> SitePlaces:
        """Every address that a site can mean: a name may be used many times.

        A site as it was asked for by symbol + 0 is after the landing pad, or at the local entry. With `as_listed` the
        site is what the kernel lists for the address of a probe, and the address is not moved any more.
        A name without a module's is looked for in the kernel, then in modules (kallsyms_lookup_name(), 6.1).
        """
        site = self.named_as_in_files(site)
        if site.module:
            return self._in_module(site, site.module, as_listed)
        kernel = self.layout.kernel
        symbols = [each for each in kernel.symbols_named(site.symbol) if each.kind in ("func", "notype", "object")]
        if symbols:
            return SitePlaces(
                tuple(sorted((self._place(kernel, s, "", site.offset, as_listed) for s in symbols), key=_by_address))
            )
        found = [self._in_module(site, name, as_listed) for name in self.modules]
        places = [place for each in found for place in each.places]
        # A module without addresses may be the one that has it.
        silent = [name for name, module in self.modules.items() if module.elf and module.missing_reason]
        having = [name for name in silent if self.modules[name].elf.symbols_named(site.symbol)]  # type: ignore[union-attr]
        missing = "" if places else self.modules[having[0]].missing_reason if having else ""
        return SitePlaces(tuple(sorted(places, key=_by_address)), missing)

    def named_as_in_files(self, site: Site) -> Site:
        """The site without the dot that some kernels print and accept before a function's name; `Elf.symbols` has none.

        kprobe_lookup_name(), arch/powerpc/kernel/kprobes.c, 6.1.
        """
        if has_dotted_functions(self.layout.kernel):
            return replace(site, symbol=site.symbol.removeprefix("."))
        return site

    def reason_without_places(self, site: Site) -> str:
        """Why a site means no address, empty when it means one."""
        named = self.find_places(site)
        if named.places or named.missing_reason:
            return "" if named.places else named.missing_reason
        if site.module:
            return f"the file of {site.module} has no symbol {site.symbol}"
        return f"no file at hand has a symbol {site.symbol}"

    def reason_missing_at(self, address: int) -> str:
        """Why nothing can be compared at an address of a module, empty when no loaded module can have it."""
        bases = sorted(
            (module.base, module.missing_reason) for module in self.modules.values() if module.base <= address
        )
        return bases[-1][1] if bases and not self._in_kernel(address) else ""

    def describe_address(self, address: int) -> str:
        """Symbol + offset by the System.map, if there is one and the address is the kernel's, else by the ELF files."""
        if self._names and self._in_kernel(address):
            return self._names.describe_address(address - self.slide)
        unknown = next((m for m in self.modules.values() if m.missing_reason and m.contains(address)), None)
        if unknown:
            return f"{address - unknown.base:#x} behind the base of [{unknown.module}]"
        return self.layout.describe_address(address)

    def _in_kernel(self, address: int) -> bool:
        return address in self.layout.text_range

    def _in_module(self, site: Site, name: str, as_listed: bool) -> SitePlaces:
        module = self.modules.get(name)
        if module is None:
            return SitePlaces(missing_reason=f"the module {name} is not loaded")
        if module.elf is None or module.missing_reason:
            return SitePlaces(missing_reason=module.missing_reason)
        elf = module.elf
        loaded = [
            s
            for s in elf.symbols_named(site.symbol)
            if s.section in module.sections and s.section not in elf.duplicated_section_names
        ]
        places = (self._place(elf, s, name, site.offset, as_listed) for s in loaded)
        return SitePlaces(tuple(sorted(places, key=_by_address)))

    def _place(self, elf: Elf, symbol: Symbol, module: str, offset: int, as_listed: bool) -> SitePlace:
        moved = not offset and symbol.kind == "func" and not as_listed
        pad = self.layout.entry_shift_of(elf, symbol) if moved else 0
        return SitePlace(self.layout.symbol_address(symbol, module) + offset + pad, symbol, pad)


def _by_address(place: SitePlace) -> int:
    return place.address
