"""Relocation by hand on trial: where it points for every function, and whether the kernel really goes there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.elf import Elf
from harness.landing import probe_module
from harness.landing.by_hand import UNARMED, ByHand
from harness.landing.checks.classify_address import AddressKind, Places
from harness.landing.checks.symbol_table_size import Carried, measure
from harness.landing.code.functions import evenly, unique_functions
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.kallsyms import missed_by_symbol
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

# Sites of each kind that are really registered: arming one costs some 10 ms under emulation.
SAMPLE = 12
# A kind's candidates that are looked at to find so many that can be registered.
_CHOICE = 8 * SAMPLE


class Aim(NamedTuple):
    """Where relocation by hand puts a function's probe, where the function is, and what stands where it is put."""

    site: Site
    address: int
    truth: int
    place: AddressKind

    @property
    def lands(self) -> bool:
        """True when that is where the function is."""
        return self.address == self.truth


@dataclass(frozen=True)
class Trial:
    """Relocation by hand of probes on some functions of one guest.

    `name` is the trial's, `made_for` names what the probes were compiled for.
    """

    name: str
    made_for: str
    layout: Layout
    by_hand: ByHand
    places: Places
    aims: Sequence[Aim]

    @classmethod
    def of_kernel(cls, layout: Layout, name: str, made_for: str, by_hand: ByHand, other: Elf | None = None) -> Trial:
        """Every function of the kernel's text whose name is its own there, and in the `other` vmlinux made for."""
        functions = [symbol.name for symbol in unique_functions(layout.kernel)]
        if other is not None:
            known = {symbol.name for symbol in unique_functions(other)}
            functions = [function for function in functions if function in known]
        return cls._aimed(layout, name, made_for, by_hand, [Site(function) for function in functions])

    @classmethod
    def of_module(cls, layout: Layout, target: Target, name: str, made_for: str, by_hand: ByHand) -> Trial:
        """Every function of a target that is still there after its initializer ran."""
        functions = target.functions(target.lasting_text, unique=True, preambles=False)
        sites = [Site(symbol.name, module=target.module) for symbol in functions]
        return cls._aimed(layout, name, made_for, by_hand, sites)

    @classmethod
    def _aimed(cls, layout: Layout, name: str, made_for: str, by_hand: ByHand, sites: Iterable[Site]) -> Trial:
        places = Places(layout)
        aims = []
        for site in sites:
            address = by_hand.address(site)
            truth = layout.base(layout.symbol(site)[1], site.module)
            aims.append(Aim(site, address, truth, AddressKind.INSTRUCTION if address == truth else places.at(address)))
        return cls(name, made_for, layout, by_hand, places, aims)

    @property
    def missed(self) -> list[Aim]:
        """Those put elsewhere."""
        return [aim for aim in self.aims if not aim.lands]

    def counts(self) -> dict[str, int]:
        """How many functions there are and how many are missed, and of these what stands where the probe is put.

        `missed_by_symbol` counts those that the kernel's own kallsyms puts elsewhere than the ELF file does.
        """
        found = Counter(aim.place.value for aim in self.missed)
        return {
            "symbols": len(self.aims),
            "missed": len(self.missed),
            **{place.value: found[place.value] for place in AddressKind},
            "missed_by_symbol": len(missed_by_symbol(self.layout, [(aim.site, aim.truth) for aim in self.aims])),
        }

    def carried(self) -> Carried:
        """The bytes of symbol tables that a probe module for these functions carries each way."""
        architecture = self.layout.guest.architecture
        return measure(architecture, self.by_hand, [aim.site for aim in self.aims])

    def prove(self, kprobes: Kprobes) -> None:
        """Really register a sample of each kind. Raises Missed unless each ends as computed.

        What is put on an instruction is armed and must be seen there, by the kernel's own list and in memory, under the
        name of the function that it hits. What is put inside an instruction must be refused. Anything else may be taken
        or refused, but must stand where it was computed to, never where it was meant. Then the same functions by
        symbol + offset, which must all land.
        """
        landing = [aim for aim in self.aims if aim.lands]
        astray = [aim for aim in self.missed if aim.place is AddressKind.INSTRUCTION]
        for kind in (landing, astray):
            self._arm(kprobes, self._registrable(kind))
        refused = [aim for place in AddressKind if place is not AddressKind.INSTRUCTION for aim in self._of(place)]
        if refused:
            self._resolve(refused)
        missed = sample(self.places, [aim.site for aim in self.missed])
        with kprobes.on(*(missed or sample(self.places, [aim.site for aim in self.aims]))) as probes:
            pass
        probes.prove()

    def _arm(self, kprobes: Kprobes, chosen: Sequence[tuple[Aim, Site]]) -> None:
        """Register by hand; each must stand on the site that is there."""
        if not chosen:
            return
        request = self.by_hand.request([aim.site for aim, _ in chosen])
        with kprobes.on(*(there for _, there in chosen), relocation=lambda *_: request) as probes:
            pass
        probes.prove()

    def _resolve(self, aims: Sequence[Aim]) -> None:
        """Register by hand, unarmed: what stands there may be no instruction, or one that the kernel steps wrongly."""
        guest = self.layout.guest
        asked = self.by_hand.request([aim.site for aim in aims], UNARMED)
        view = probe_module.load(guest, asked.specs, asked.parameters, asked.module)
        probe_module.unload(guest, asked.module)
        wanted = guest.architecture.kprobes.mid_instruction
        for aim, report in zip(aims, view.reports, strict=True):
            if aim.place is AddressKind.MID_INSTRUCTION and report.errno != wanted:
                raise Missed(f"{aim.site} put at {aim.address:#x}, inside an instruction: errno {report.errno}")
            if not report.errno and report.address != aim.address:
                raise Missed(f"{aim.site} put at {aim.address:#x} stands at {report.address:#x}")

    def _of(self, place: AddressKind) -> list[Aim]:
        """A spread sample of what is put on one kind of place.

        Of instructions' insides only those that no kernel patches: x86 makes a RET and four INT3 of the jump to its
        return thunk (apply_returns(), arch/x86/kernel/alternative.c, 6.1), so that instructions begin inside of it.
        """
        found = [aim for aim in self.missed if aim.place is place]
        if place is AddressKind.MID_INSTRUCTION:
            found = [aim for aim in evenly(found, _CHOICE) if self.places.never_starts(aim.address)]
        return evenly(found, SAMPLE)

    def _registrable(self, aims: Sequence[Aim]) -> list[tuple[Aim, Site]]:
        """A spread sample of aims at instructions that may be armed, and the site that each is at."""
        found = [(aim, there) for aim in evenly(aims, _CHOICE) if (there := self.places.site(aim.address))]
        return evenly([(aim, there) for aim, there in found if self.places.safe(there)], SAMPLE)


def sample(places: Places, sites: Sequence[Site]) -> list[Site]:
    """Some of these sites, evenly spread, without those that the kernel refuses or may step wrongly."""
    return evenly([site for site in evenly(sites, _CHOICE) if places.safe(site)], SAMPLE)
