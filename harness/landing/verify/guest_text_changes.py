"""All text of a guest at one moment, kernel and modules, read from outside; and what changed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from harness.core.elf import Elf
from harness.landing import own_bytes
from harness.landing.code import module_plt
from harness.landing.code.patch_sites import LINKED, ftrace_sites, patch_sites
from harness.landing.layout import Layout
from harness.landing.verify.ftrace_call_target import LONGEST, call_target
from harness.landing.verify.loaded_modules import LoadedModule

_BLOCK = 4096


@dataclass(frozen=True)
class TextRegion:
    """Bytes of text from the address `start` on; `module` is empty for the kernel, whose `section` is empty too."""

    start: int
    content: bytes
    module: str = ""
    section: str = ""

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.start + len(self.content)

    def bytes_at(self, start: int, size: int) -> bytes:
        """As many of `size` bytes from an address on as there are."""
        return self.content[max(0, start - self.start) : max(0, start - self.start + size)]

    def differing_addresses(self, other: TextRegion) -> Iterator[int]:
        """The addresses of all bytes that differ."""
        for block in range(0, len(self.content), _BLOCK):
            ours, theirs = self.content[block : block + _BLOCK], other.content[block : block + _BLOCK]
            if ours != theirs:
                yield from (self.start + block + at for at in range(len(ours)) if ours[at] != theirs[at])


@dataclass(frozen=True)
class GuestText:
    """The regions of a guest's text: `_stext` to `_etext`, and each section of code of each module with a file."""

    regions: tuple[TextRegion, ...]

    @classmethod
    def read(cls, layout: Layout, modules: Mapping[str, LoadedModule]) -> GuestText:
        """Read it through QEMU: 14 MB of an x86_64 kernel of Debian's take half a second."""
        places = [(layout.text_range.start, len(layout.text_range), "", "")]
        places += [
            (at, size, name, section)
            for name, module in modules.items()
            for section, at, size in module.code_sections()
        ]
        contents = layout.guest.memory.read_many([(at, size) for at, size, _, _ in places])
        return cls(
            tuple(
                TextRegion(at, content, name, section)
                for (at, _, name, section), content in zip(places, contents, strict=True)
            )
        )

    def region_at(self, address: int) -> TextRegion | None:
        """The region that an address is in."""
        return next((each for each in self.regions if each.start <= address < each.end), None)

    def same_region(self, region: TextRegion) -> TextRegion | None:
        """The region that another moment's region was or became; None where its module was not loaded."""
        place = (region.start, region.module, region.section, len(region.content))
        return next((e for e in self.regions if (e.start, e.module, e.section, len(e.content)) == place), None)


class TextChanges:
    """What changed in a guest's text between two moments, without what the kernel itself patches."""

    def __init__(self, layout: Layout, modules: Mapping[str, LoadedModule]) -> None:
        self._layout = layout
        self._modules = modules

    def changed_addresses(self, before: GuestText, after: GuestText) -> list[int]:
        """The addresses of bytes that differ, sorted: against the earlier moment, or, where there is none, the file.

        The sites of ftrace are among them; the kernel's other patch tables are not.
        """
        found: set[int] = set()
        for region in after.regions:
            earlier = before.same_region(region)
            if earlier is None:
                found.update(self._from_file(region))
            else:
                patched = self._patched(region)
                found.update(at for at in earlier.differing_addresses(region) if not patched(at))
        return sorted(found)

    def ftrace_site_start(self, address: int) -> int | None:
        """Where the ftrace site begins that an address is in; None for an address in none."""
        elf, place, shift = self._place(address)
        site = ftrace_sites(elf).site_at(place, address - shift) if elf else None
        return site.start + shift if site else None

    def all_ftrace_sites_in(self, start: int, size: int) -> list[int]:
        """The ftrace sites of `size` bytes from an address on."""
        elf, place, shift = self._place(start)
        return [] if elf is None else [at + shift for at in ftrace_sites(elf).starts_within(place, start - shift, size)]

    def _patched(self, region: TextRegion) -> Callable[[int], bool]:
        elf, place, shift = self._place(region.start)
        if elf is None:
            return lambda _: False
        tables = patch_sites(elf, ftrace=False)
        return lambda at: bool(tables.patched_offsets(place, at - shift, 1))

    def _from_file(self, region: TextRegion) -> Iterator[int]:
        """Bytes that are not the module's own, of one that was not there before; its ftrace sites too."""
        elf, place, shift = self._place(region.start)
        if elf is None or region.section in elf.duplicated_section_names:
            return
        if region.section in module_plt.loader_filled_sections(elf):
            yield from self._from_loader(elf, region)
            return
        own = own_bytes.module_own_bytes(elf, region.section, region.start, region.start, len(region.content))
        strays = own.differing_offsets(region.content)
        yield from (region.start + at for at in strays)
        # In memory a site is a nop, whatever the file has there, until something is called from it.
        form = self._layout.guest.architecture.kprobe_traits.ftrace_call_instruction
        for site in ftrace_sites(elf).starts_within(place, 0, len(region.content)):
            if form and call_target(form, site + shift, region.bytes_at(site + shift, LONGEST)) is not None:
                yield site + shift

    def _from_loader(self, elf: Elf, region: TextRegion) -> Iterator[int]:
        """Addresses of entries that the loader does not write, of a section that it fills."""
        allowed = set[int]()
        module = self._modules[region.module]
        for symbol, addend in module_plt.jump_target_symbols(elf, region.section):
            own = symbol.section in module.sections
            places = [self._layout.symbol_address(symbol, region.module)] if own else self._elsewhere(symbol.name)
            allowed.update(place + addend for place in places)
        wrong = module_plt.find_foreign_entry_offsets(
            region.content,
            region.start,
            allowed,
            lambda at: bool(module.section_at(at)),
            module_plt.loader_jump_form(elf, region.section),
        )
        yield from (region.start + offset for offset in wrong)

    def _elsewhere(self, name: str) -> list[int]:
        """Where the kernel and modules have a symbol of that name."""
        layout = self._layout
        found = [symbol.address + layout.slide for symbol in layout.kernel.symbols_named(name)]
        for other, loaded in layout.modules.items():
            found += [
                layout.symbol_address(each, other)
                for each in loaded.elf.symbols_named(name)
                if each.section in loaded.sections
            ]
        return found

    def _place(self, address: int) -> tuple[Elf | None, str, int]:
        """The file that has an address, the name of its place there, and what its offsets are loaded from."""
        for module in self._modules.values():
            section = module.section_at(address)
            if section:
                return module.elf, section, module.sections[section]
        layout = self._layout
        return (layout.kernel, LINKED, layout.slide) if address in layout.text_range else (None, "", 0)
