"""Someone else's probe module in a guest: loaded, its kprobes checked from outside, unloaded, checked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from harness.core.architecture import KprobeTraits
from harness.core.errors import GuestError, GuestLost
from harness.guest.guest import Guest
from harness.landing import own_bytes, probe_module, witness
from harness.landing.code import static_kprobes
from harness.landing.code.system_map import SystemMap
from harness.landing.landing import Landing
from harness.landing.layout import Layout
from harness.landing.own_bytes import OwnBytes
from harness.landing.probe_module import ListedProbe
from harness.landing.site import Site
from harness.landing.target import Target
from harness.landing.verify.kernel_text import KernelTextSnapshot, unasked
from harness.landing.witness import Statement, Window

# Memory to both sides of a probe that is held against the ELF.
_AROUND = 32
_SHOWN = 8


class Foreign(Target):
    """The module to verify, which stands in the image under its own name. It needs no build-id."""

    def load(self) -> None:
        """insmod. Raises GuestError with insmod's message when the kernel refuses."""
        self.guest.script(f"insmod {self.guest.ship(self.build)}").check()
        listing = f"cd /sys/module/{self.module}/sections && grep -H '' $(ls -A)"
        self.sections = self._parsed(self.guest.script(listing).stdout)

    def section_at(self, address: int) -> str:
        """The section of code that an address is in, "" when it is in none of this module's."""
        for name, start in self.sections.items():
            section = self.elf.sections.get(name)
            if section and section.executable and start <= address < start + section.size:
                return name
        return ""


@dataclass(frozen=True)
class Moment:
    """What a guest showed at one moment: the listed kprobes, and all kernel text."""

    listed: tuple[ListedProbe, ...]
    text: KernelTextSnapshot

    @classmethod
    def of(cls, layout: Layout) -> Moment:
        """Now."""
        return cls(probe_module.standing(layout.guest), KernelTextSnapshot.read(layout))


class Life:
    """One life of the module in a guest, seen from within and from without. Raises GuestError when it does not load."""

    def __init__(self, guest: Guest, name: str, names: SystemMap | None = None) -> None:
        self.module = Foreign(guest, name)
        self.names = names
        kernel = Layout(guest)
        self.before = Moment.of(kernel)
        self.module.load()
        self.layout = Layout(guest, [self.module])
        self.during = Moment.of(self.layout)
        self.made = [each for each in self.during.listed if each not in self.before.listed]
        self._own: Mapping[int, tuple[OwnBytes, bytes]] = {
            each.address: self._own_window(each.address) for each in self.made if self.module.section_at(each.address)
        }
        self.failed, left = "", self.before.listed
        try:
            self.module.unload()
            left = probe_module.standing(guest)
        except GuestLost:
            raise
        except GuestError as error:
            self.failed = error.what
        self.after = Moment(left, KernelTextSnapshot.read(kernel))

    @property
    def _probing(self) -> KprobeTraits:
        return self.layout.guest.image.recipe.architecture.kprobes

    @cached_property
    def landings(self) -> list[Landing]:
        """The witnesses' statements about each kprobe that was made, and of each that the module's file means."""
        wanted = [(site, self._places(site)) for site in static_kprobes.sites(self.module.elf)]
        found = [self._landing(each, [site for site, at in wanted if each.address in at]) for each in self.made]
        made = {each.address for each in self.made}
        return found + [self._absent(site, at) for site, at in wanted if not made.intersection(at)]

    @cached_property
    def wrongs(self) -> list[str]:
        """What is wrong apart from the landings: nothing made, memory changed elsewhere, something left."""
        longest = max(length for _, length in self._probing.patches)
        probed = {each.address + byte for each in self.made for byte in range(longest)}
        changed = [at for at in unasked(self.layout, self.before.text, self.during.text) if at not in probed]
        kept = [at for at in probed if self.before.text.piece(at, 1) != self.after.text.piece(at, 1)]
        kept += unasked(self.layout, self.before.text, self.after.text)
        left = [each for each in self.after.listed if each not in self.before.listed]
        found = [] if self.made or self.landings else ["it registers no kprobe"]
        found += [f"not unloaded cleanly: {self.failed}"] if self.failed else []
        found += [f"kernel text changed where no kprobe is listed: {self._named(changed)}"] if changed else []
        found += [f"kernel text is not as before after rmmod: {self._named(kept)}"] if kept else []
        found += [f"still listed after rmmod: {self.meaning(each.address)}" for each in left]
        return found

    def meaning(self, address: int) -> str:
        """Symbol + offset by the System.map, if there is one and the address is the kernel's, else by the ELF files."""
        if self.names and self.before.text.holds(address):
            return self.names.meaning(address - self.layout.slide)
        return self.layout.meaning(address)

    def _landing(self, each: ListedProbe, sites: list[Site]) -> Landing:
        """`sites` are those that the file means and that are at the listed address."""
        said = Statement("listed", each.address, " ".join((each.meaning, *each.flags)))
        statements = [said, self._by_name(each), self._outside(each)]
        statements += [Statement("meant", each.address, f"{site} in the module's file") for site in sites[:1]]
        shown = [replace(said, code=self._bytes(said)) for said in statements]
        site = sites[0] if sites else _site(each)
        return Landing(site, shown, 0, self.meaning, self.meaning(each.address) if self._past_end(site) else "")

    def _absent(self, site: Site, places: list[int]) -> Landing:
        statements = [
            Statement("listed", None, "no kprobe is listed there", contradicts=True),
            Statement("meant", places[0] if places else None, f"{site} in the module's file"),
        ]
        return Landing(site, statements, 0, self.meaning)

    def _by_name(self, each: ListedProbe) -> Statement:
        """Where the ELF files have the symbol + offset that the kernel lists."""
        site = _site(each)
        places = self._places(site)
        if not places:
            return Statement("elf", None, f"no file at hand has {site}")
        return Statement("elf", each.address if each.address in places else places[0])

    def _past_end(self, site: Site) -> bool:
        """Is the offset past the end of every symbol of that name? The kernel takes it all the same."""
        own = site.module == self.module.module or not self.layout.kernel.named(site.symbol)
        found = (self.module.elf if own else self.layout.kernel).named(site.symbol)
        return bool(found) and all(0 < symbol.size <= site.offset for symbol in found)

    def _places(self, site: Site) -> list[int]:
        """Every address that a site can mean by the ELF files: a name may be used many times.

        A name without a module's is looked for in the kernel, then in modules (kallsyms_lookup_name()).
        """
        places: list[int] = []
        if not site.module:
            places = [self.layout.base(symbol, "") for symbol in self.layout.kernel.named(site.symbol)]
        if not places and site.module in ("", self.module.module):
            loaded = (each for each in self.module.elf.named(site.symbol) if each.section in self.module.sections)
            places = [self.layout.base(symbol, self.module.module) for symbol in loaded]
        return [place + site.offset for place in places]

    def _outside(self, each: ListedProbe) -> Statement:
        """What memory shows of a listed kprobe."""
        standing = [other.address for other in self.before.listed]
        if "[DISABLED]" in each.flags:
            return Statement("outside", None, "it is disabled: there is nothing to be seen")
        if each.address in self._own:
            own, memory = self._own[each.address]
            window = Window(own.start, _unprobed(own, memory, each.address), memory)
        elif self.before.text.holds(each.address):
            start, size = max(self.before.text.start, each.address - _AROUND), 2 * _AROUND
            own = own_bytes.of_kernel(self.layout.kernel, self.layout.slide, start, size)
            states = [moment.text.piece(start, size) for moment in (self.before, self.during, self.after)]
            window = Window(start, *states)
        else:
            return Statement("outside", None, "no ELF file at hand has this address")
        return witness.outside(window, each.address, self._probing, own, standing)

    def _own_window(self, address: int) -> tuple[OwnBytes, bytes]:
        """The module's own bytes around an address of its own, and what memory has there."""
        section = self.module.section_at(address)
        loaded = self.module.sections[section]
        start = max(loaded, address - _AROUND)
        own = own_bytes.of_module(self.module.elf, section, loaded, start, 2 * _AROUND)
        return own, self.layout.guest.memory.read(start, len(own.code))

    def _bytes(self, said: Statement) -> bytes:
        if said.address is None:
            return b""
        if said.witness != "elf":
            return self.during.text.piece(said.address, _SHOWN) if self.during.text.holds(said.address) else b""
        return own_bytes.of_kernel(self.layout.kernel, self.layout.slide, said.address, _SHOWN).code

    def _named(self, addresses: list[int]) -> str:
        """The first few of them, as symbol + offset."""
        more = f" and {len(addresses) - _SHOWN} bytes more" if len(addresses) > _SHOWN else ""
        return ", ".join(self.meaning(address) for address in sorted(addresses)[:_SHOWN]) + more


def _site(each: ListedProbe) -> Site:
    """What the kernel lists as a site: `sym+0xoff` and, for a module's, its name."""
    place, _, module = each.meaning.partition(" ")
    symbol, _, offset = place.rpartition("+")
    return Site(symbol, int(offset, 16), module.strip("[]"))


def _unprobed(own: OwnBytes, memory: bytes, address: int) -> bytes:
    """Memory without the probe, by the file; what the file does not know is as in memory, but at the probe."""
    here = address - own.start
    return bytes(
        memory[at] if at in own.masked and not here <= at < here + own_bytes.FEWEST else byte
        for at, byte in enumerate(own.code)
    )
