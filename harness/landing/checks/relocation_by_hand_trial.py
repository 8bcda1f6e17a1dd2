"""A trial of relocation by hand: the address that it computes for every function, and where a probe really lands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.core.elf import Elf
from harness.landing import probe_module
from harness.landing.checks.classify_address import AddressClassifier, AddressKind
from harness.landing.checks.embedded_symbol_table_cost import RelocationDataSizes, measure_compiled_relocation_data
from harness.landing.code.function_selection import evenly_spread, text_functions_named_once
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import functions_missed_by_symbol
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.systemtap_relocation_by_hand import UNARMED, RelocationByHandCalculator
from harness.landing.target import Target

# Sites of each kind that are registered in the guest; arming one takes about 10 ms under emulation.
SAMPLE = 12
# Candidates of each kind that are examined to find SAMPLE sites that can be registered.
_CHOICE = 8 * SAMPLE


class RelocatedFunction(NamedTuple):
    """One function, relocated by hand.

    `computed_address` is where relocation by hand puts the probe, `true_address` where the function is,
    `kind_at_address` what is at `computed_address`.
    """

    site: Site
    computed_address: int
    true_address: int
    kind_at_address: AddressKind

    @property
    def lands(self) -> bool:
        """True if relocation by hand finds the function."""
        return self.computed_address == self.true_address


@dataclass(frozen=True)
class Trial:
    """Relocation by hand of probes on functions of one guest.

    `name` is the name of the trial, `made_for` the name of the build that the probes were compiled for.
    """

    name: str
    made_for: str
    layout: Layout
    by_hand: RelocationByHandCalculator
    classifier: AddressClassifier
    functions: Sequence[RelocatedFunction]

    @classmethod
    def of_kernel(
        cls, layout: Layout, name: str, made_for: str, by_hand: RelocationByHandCalculator, other: Elf | None = None
    ) -> Trial:
        """A trial of every function in the kernel's text whose name is unique there and in the vmlinux `other`."""
        functions = [symbol.name for symbol in text_functions_named_once(layout.kernel)]
        if other is not None:
            known = {symbol.name for symbol in text_functions_named_once(other)}
            functions = [function for function in functions if function in known]
        return cls._aimed(
            layout, name, made_for, by_hand, [layout.entry_site(Site(function)) for function in functions]
        )

    @classmethod
    def of_module(
        cls, layout: Layout, target: Target, name: str, made_for: str, by_hand: RelocationByHandCalculator
    ) -> Trial:
        """A trial of every function of a target that stays loaded after its initializer ran."""
        functions = target.functions(target.lasting_text_sections, unique=True, preambles=False)
        sites = [layout.entry_site(Site(symbol.name, module=target.module)) for symbol in functions]
        return cls._aimed(layout, name, made_for, by_hand, sites)

    @classmethod
    def _aimed(
        cls, layout: Layout, name: str, made_for: str, by_hand: RelocationByHandCalculator, sites: Iterable[Site]
    ) -> Trial:
        places = AddressClassifier(layout)
        aims = []
        for site in sites:
            address = by_hand.address(site)
            truth = layout.symbol_address(layout.elf_and_symbol(site)[1], site.module) + site.offset
            aims.append(
                RelocatedFunction(
                    site, address, truth, AddressKind.INSTRUCTION if address == truth else places.classify(address)
                )
            )
        return cls(name, made_for, layout, by_hand, places, aims)

    @property
    def functions_missed_by_hand(self) -> list[RelocatedFunction]:
        """The functions that relocation by hand misses."""
        return [aim for aim in self.functions if not aim.lands]

    def counts(self) -> dict[str, int]:
        """The number of functions, the number missed, and the number missed by what is at the computed address.

        `missed_by_symbol` counts functions that the kernel's own kallsyms has at another address than the ELF file.
        """
        found = Counter(aim.kind_at_address.value for aim in self.functions_missed_by_hand)
        return {
            "symbols": len(self.functions),
            "missed": len(self.functions_missed_by_hand),
            **{place.value: found[place.value] for place in AddressKind},
            "missed_by_symbol": len(
                functions_missed_by_symbol(
                    self.layout, [(aim.site, aim.true_address - aim.site.offset) for aim in self.functions]
                )
            ),
        }

    def relocation_data_sizes(self) -> RelocationDataSizes:
        """The bytes of symbol tables in a probe module for these functions, by hand and by symbol."""
        architecture = self.layout.guest.architecture
        return measure_compiled_relocation_data(architecture, self.by_hand, [aim.site for aim in self.functions])

    def prove_sample_in_guest(self, kprobes: Kprobes) -> None:
        """Register a sample of each kind in the guest. Raises Missed unless each probe ends up as computed.

        - A probe computed to be on an instruction is armed, and the kernel's list and memory must show it there, under
          the name of the function that it hits.
        - A probe computed to be inside an instruction must be refused.
        - Any other probe may be accepted or refused. If it is accepted, it must be at the computed address.

        Finally a sample of the missed functions, or of all if none is missed, is registered by symbol + offset. Each of
        these probes must land.
        """
        landing = [aim for aim in self.functions if aim.lands]
        astray = [aim for aim in self.functions_missed_by_hand if aim.kind_at_address is AddressKind.INSTRUCTION]
        for kind in (landing, astray):
            self._arm(kprobes, self._registrable(kind))
        refused = [aim for place in AddressKind if place is not AddressKind.INSTRUCTION for aim in self._of(place)]
        if refused:
            self._resolve(refused)
        missed = sample_sites(self.classifier, [aim.site for aim in self.functions_missed_by_hand])
        with kprobes.on(*(missed or sample_sites(self.classifier, [aim.site for aim in self.functions]))) as probes:
            pass
        probes.prove()

    def _arm(self, kprobes: Kprobes, chosen: Sequence[tuple[RelocatedFunction, Site]]) -> None:
        """Register by hand and arm. Each probe must land on the site that is at its computed address."""
        if not chosen:
            return
        request = self.by_hand.build_request([aim.site for aim, _ in chosen])
        with kprobes.on(*(there for _, there in chosen), relocation=lambda *_: request) as probes:
            pass
        probes.prove()

    def _resolve(self, aims: Sequence[RelocatedFunction]) -> None:
        """Register by hand without arming: there may be no instruction, or one that the kernel steps wrongly."""
        guest = self.layout.guest
        request = self.by_hand.build_request([aim.site for aim in aims], UNARMED)
        view = probe_module.load_probe_module(guest, request.specs, request.parameters, request.module)
        probe_module.unload_probe_module(guest, request.module)
        wanted = guest.architecture.kprobe_traits.mid_instruction_errno
        for aim, report in zip(aims, view.reports, strict=True):
            if wanted and aim.kind_at_address is AddressKind.MID_INSTRUCTION and report.errno != wanted:
                raise Missed(
                    f"{aim.site} put at {aim.computed_address:#x}, inside an instruction: errno {report.errno}"
                )
            if not report.errno and report.address != aim.computed_address:
                raise Missed(f"{aim.site} put at {aim.computed_address:#x} was registered at {report.address:#x}")

    def _of(self, place: AddressKind) -> list[RelocatedFunction]:
        """A sample, evenly spread, of the aims at one kind of place.

        The inside of an instruction counts only if no kernel patches the instruction: x86 replaces the jump to its
        return thunk by a RET and four INT3 (apply_returns(), arch/x86/kernel/alternative.c, 6.1), so that instructions
        begin inside of the former jump.
        """
        found = [aim for aim in self.functions_missed_by_hand if aim.kind_at_address is place]
        if place is AddressKind.MID_INSTRUCTION:
            found = [
                aim
                for aim in evenly_spread(found, _CHOICE)
                if self.classifier.is_inside_instruction(aim.computed_address)
            ]
        return evenly_spread(found, SAMPLE)

    def _registrable(self, aims: Sequence[RelocatedFunction]) -> list[tuple[RelocatedFunction, Site]]:
        """A sample, evenly spread, of aims at instructions that may be armed, each with the site at its address."""
        found = [
            (aim, there)
            for aim in evenly_spread(aims, _CHOICE)
            if (there := self.classifier.function_site_at(aim.computed_address))
        ]
        return evenly_spread(
            [(aim, there) for aim, there in found if self.classifier.is_site_safe_to_probe(there)], SAMPLE
        )


def sample_sites(places: AddressClassifier, sites: Sequence[Site]) -> list[Site]:
    """A sample of the sites, evenly spread, without sites that the kernel refuses or may step wrongly."""
    return evenly_spread([site for site in evenly_spread(sites, _CHOICE) if places.is_site_safe_to_probe(site)], SAMPLE)
