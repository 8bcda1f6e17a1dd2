"""Addresses in one guest, computed from the ELF files: the kernel's by its slide, modules' by their sections."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from harness.core.architecture import Decoder
from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError, PinpointError
from harness.guest.guest import Guest
from harness.guest.result import readable
from harness.images.image import Image
from harness.landing.code.closest_symbol import Closest, ClosestOfAll, Named
from harness.landing.code.functions import select
from harness.landing.code.instructions import boundaries, inside, straight
from harness.landing.code.patch_sites import patch_sites
from harness.landing.site import Site
from harness.landing.target import Target

# The kernel's own first text symbol: linked in every vmlinux, listed in every /proc/kallsyms.
ANCHOR = "_stext"
_slides: WeakKeyDictionary[Guest, int] = WeakKeyDictionary()


class Loaded(NamedTuple):
    """A module with its file, and where its sections are loaded."""

    module: str
    elf: Elf
    sections: Mapping[str, int]

    @property
    def lasting(self) -> set[str]:
        """The sections that stay: sysfs shows those of the initializer long after they are freed."""
        return {name for name in self.sections if not name.startswith(".init")}


class Gap(NamedTuple):
    """Two functions that follow each other in a module's file, and the bytes between their starts."""

    first: str
    second: str
    in_file: int
    loaded: int


class Layout:
    """The ELF's view of one guest, with the targets that are loaded in it."""

    def __init__(
        self,
        guest: Guest,
        targets: Iterable[Target] = (),
        image_of: Callable[[str], Image] | None = None,
        *,
        others: Iterable[Loaded] = (),
    ) -> None:
        """`others` are modules that are loaded, too, and are no targets of ours."""
        self.guest = guest
        self.kernel = Elf.kept(guest.image.vmlinux)
        self.targets = {target.module: target for target in targets}
        self.modules: dict[str, Target | Loaded] = {**self.targets, **{each.module: each for each in others}}
        self._image_of = image_of

    @cached_property
    def sibling(self) -> Elf | None:
        """The vmlinux of the same source and configuration with another order of functions, None where there is none.

        Its image is prepared when this is first asked for.
        """
        name = self.guest.image.recipe.kernel.sibling
        return Elf.kept(self._image_of(name).vmlinux) if name and self._image_of else None

    @property
    def other_modules(self) -> dict[str, Elf]:
        """The files of the targets' other builds, which have another layout, by the targets' names."""
        files = self.guest.image.modules
        return {name: Elf.kept(files[f"rebuilt/{name}"]) for name in self.targets if f"rebuilt/{name}" in files}

    @property
    def slide(self) -> int:
        """Bytes between where the kernel was linked and where it runs; 0 without KASLR. Asked of each guest once."""
        if self.guest not in _slides:
            _slides[self.guest] = self._measure_slide()
        return _slides[self.guest]

    @readable("/proc/kallsyms")
    def _measure_slide(self) -> int:
        listing = self.guest.run("grep", "-m1", f" {ANCHOR}$", "/proc/kallsyms").check().stdout
        running = int(listing.split()[0], 16)
        if running == 0:
            raise GuestError("/proc/kallsyms shows zeros", where=self.guest.name, mend="kptr_restrict must be 0")
        return running - self.kernel.named(ANCHOR)[0].address

    def symbol(self, site: Site) -> tuple[Elf, Symbol]:
        """The ELF file and the function a site names.

        Of several the one that the kernel takes: its own at the lowest address, a module's first in the symbol table
        (kallsyms_lookup_name(), find_kallsyms_symbol_value(), 6.1).
        """
        elf = self.modules[site.module].elf if site.module else self.kernel
        named = [symbol for symbol in elf.named(site.symbol) if symbol.kind == "func"]
        if len(named) > 1:
            return elf, named[0] if site.module else min(named, key=lambda symbol: symbol.address)
        return elf, elf.function(site.symbol)

    def address(self, site: Site) -> int:
        """The address where a probe on the site must land, by the ELF.

        A probe on an entry that begins with a landing pad is put behind it (arch_adjust_kprobe_addr(), since 5.19).
        """
        elf, symbol = self.symbol(site)
        entered = [symbol] if not site.offset else _entries(elf, symbol, site.offset)
        shift = max((self.pad(elf, entry) for entry in entered), default=0)
        return self.base(symbol, site.module) + site.offset + shift

    def landing_pad(self, site: Site) -> int:
        """The size of the landing pad that the site's function begins with, in bytes, 0 where it has none."""
        return self.pad(*self.symbol(site))

    def pad(self, elf: Elf, symbol: Symbol) -> int:
        """The same of a function of a file: of two of a name one may have a landing pad, and the other none."""
        pad = self.guest.image.recipe.architecture.kprobes.entry_landing_pad
        return len(pad) if pad and elf.code(symbol)[: len(pad)] == pad else 0

    def start(self, site: Site) -> int:
        """Where the site's symbol is loaded; a probe on an entry may land past it, see `address`."""
        _, symbol = self.symbol(site)
        return self.base(symbol, site.module)

    def boundaries(self, site: Site) -> list[Site]:
        """The site's function at each of its instructions. Raises PinpointError where they cannot be decoded."""
        elf, symbol = self.symbol(site)
        return [site.at(offset) for offset in boundaries(elf, symbol, self.decoder)]

    def straight(self, site: Site, count: int | None = None) -> list[Site]:
        """The site's function at its entry and at inner boundaries that run exactly once a call, `count` or all.

        Raises GuestError when the function has fewer: then it is no function to claim inner boundaries of.
        """
        elf, symbol = self.symbol(site)
        offsets = straight(elf, symbol, self.decoder)[:count]
        if len(offsets) < (count or 1):
            raise GuestError(f"{site} has only {len(offsets)} boundaries in a straight line", where=self.guest.name)
        return [site.at(offset) for offset in offsets]

    def following(self, site: Site) -> Site:
        """The site one instruction on from where a probe on it lands; behind the function's last one, its end."""
        elf, symbol = self.symbol(site)
        lands = self.address(site) - self.base(symbol, site.module)
        later = (offset for offset in boundaries(elf, symbol, self.decoder) if offset > lands)
        return site.at(next(later, symbol.size))

    def mid_instruction(self, site: Site) -> list[Site]:
        """The site's function at every offset that is inside an instruction or misaligned."""
        elf, symbol = self.symbol(site)
        return [site.at(offset) for offset in inside(elf, symbol, self.decoder)]

    @property
    def decoder(self) -> Decoder:
        """How instruction boundaries are found."""
        return self.guest.image.recipe.architecture.kprobes.decoder

    def base(self, symbol: Symbol, module: str) -> int:
        """Where a symbol is loaded: its section's address and its place in it, or its linked address and the slide."""
        if not module:
            return symbol.address + self.slide
        section = self.modules[module].sections.get(symbol.section)
        if section is None:
            raise GuestError(f"{module} has no section {symbol.section} in sysfs", where=self.guest.name)
        return section + symbol.address

    def gaps(self, module: str) -> list[Gap]:
        """The distances between functions of a module that follow each other in the file, in the file and loaded."""
        target = self.targets[module]
        functions = sorted(
            (target.elf.sections[symbol.section].offset + symbol.address, self.base(symbol, module), symbol)
            for symbol in target.functions(target.lasting)
            if symbol.section.startswith(".text")
        )
        return [
            Gap(left[2].name, right[2].name, right[0] - left[0], right[1] - left[1])
            for left, right in pairwise(functions)
        ]

    def code(self, site: Site) -> bytes:
        """The function's own bytes in its ELF file, relocations not applied."""
        elf, symbol = self.symbol(site)
        return elf.code(symbol)

    def meaning(self, address: int) -> str:
        """The closest symbol at or below an address and the offset into it, as `sym+0xoff [mod]`."""
        return str(self.closest.at(address) or "nothing known")

    @cached_property
    def closest(self) -> ClosestOfAll:
        """Every symbol that kallsyms may keep, where it is loaded: functions before what shares their addresses."""
        modules: list[Named] = []
        for module, target in self.modules.items():
            symbols = _functions_first(target.elf, target.lasting)
            modules += [Named(self.base(symbol, module), symbol.name, module) for symbol in symbols]
        return ClosestOfAll((_closest_as_linked(self.kernel), self.slide), (Closest(modules), 0))

    def functions(self, module: str, *, preambles: bool = True, empty: bool = True) -> list[Symbol]:
        """Return the functions that stay in memory, of a target or, for an empty name, of the kernel.

        Freed initializer sections are left out: that memory may hold something else by now.
        """
        if module:
            target = self.targets[module]
            return target.functions(target.lasting, preambles=preambles, empty=empty)
        sections = {name for name in self.kernel.sections if not name.startswith(".init")}
        return select(self.kernel, sections, preambles=preambles, empty=empty)

    def mark(self, name: str) -> int:
        """Where one of the linker's own symbols in vmlinux is, as `_etext`."""
        return self.kernel.named(name)[0].address + self.slide


def _entries(elf: Elf, symbol: Symbol, offset: int) -> list[Symbol]:
    """The functions that an offset past a function's end is the entry of, if any."""
    if offset < symbol.size:
        return []
    place = (symbol.section, symbol.address + offset)
    return [each for each in elf.symbols if each.kind == "func" and (each.section, each.address) == place]


def read_ahead(vmlinux: Path) -> None:
    """Read what every layout of a kernel needs of its file, so that a guest can start meanwhile: seconds of work.

    Raises nothing: whoever needs what cannot be read gets the error.
    """
    with suppress(PinpointError, OSError):
        kernel = Elf.kept(vmlinux)
        patch_sites(kernel)
        _closest_as_linked(kernel)


@lru_cache(maxsize=8)
def _closest_as_linked(vmlinux: Elf) -> Closest:
    """A kernel has 100,000 symbols and more: all guests of it share this table."""
    return Closest(Named(symbol.address, symbol.name) for symbol in _functions_first(vmlinux, vmlinux.sections))


def _functions_first(elf: Elf, sections: Container[str]) -> list[Symbol]:
    """The symbols that stand in one of these sections; the stable sort leaves those of a kind in the table's order."""
    standing = (each for each in elf.symbols if each.section in sections and each.kind not in ("section", "file"))
    return sorted(standing, key=lambda symbol: symbol.kind != "func")
