"""Every instruction boundary of a target's functions: on which the kernel must accept a probe, and on which not."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from harness.core.elf import Symbol
from harness.landing.code.basic_blocks import group_equally_run_offsets, offsets_of_padding_between_parts
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.instructions import decode_function, has_delay_slots, offsets_of_relocations_to_prefix
from harness.landing.code.patch_sites import module_table_entries
from harness.landing.code.patch_tables import JUMPS
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.probe_run import ProbeRun
from harness.landing.site import Site
from harness.landing.target import Target

# Instructions that may change the flow of control. Every architecture steps a probe on any other correctly.
_LEAVES_THE_LINE = frozenset(InstructionKind) - {InstructionKind.OTHER, InstructionKind.STACK_STORE}
_OF_A_MUTANT = ("pinpoint_leaf", "pinpoint_branches")
# On x86 a static call goes through a trampoline with this prefix (include/linux/static_call_types.h). With this option,
# which 32-bit x86 lacks (arch/x86/Kconfig, 6.1), the kernel patches the calls themselves, otherwise the trampoline.
_STATIC_CALL = "__SCT__"
_INLINE_STATIC_CALLS = "CONFIG_HAVE_STATIC_CALL_INLINE"


@dataclass(frozen=True)
class EveryInstructionSites:
    """All boundaries of all functions of a target that stay loaded after its initialization.

    Functions whose name occurs twice in the module are left out, because symbol + offset is ambiguous. If an address
    has two names, the second is left out. A mutant is tried on two functions only: more would prove nothing more, and
    on x86 a probe in a module takes 11 ms.
    """

    layout: Layout
    target: Target
    mutant: Mutant = HONEST

    @property
    def entry_sites(self) -> list[Site]:
        """A site at the entry of every function."""
        sites = (Site(symbol.name, module=self.target.module) for symbol in self.functions)
        return [self.layout.entry_site(site) for site in sites]

    def inside_instructions_by_errno(self, number: int, every: int) -> dict[int, list[Site]]:
        """Sites inside instructions, or misaligned ones, each below the errno with which the kernel must refuse them.

        It is EINVAL in a static branch or static call, which is looked for first (check_kprobe_address_safe(),
        kernel/kprobes.c, 6.1), and otherwise `number`. Of these only each site number `every` is returned.
        """
        found: dict[int, list[Site]] = {number: [], errno.EINVAL: []}
        others: list[Site] = []
        for start in self.entry_sites:
            patched = self._offsets_in_patched_instructions(start)
            for site in self.layout.mid_instruction_sites(start):
                (found[errno.EINVAL] if site.offset in patched else others).append(site)
        found[number] += others[::every]
        return found

    @property
    def accepted_sites(self) -> list[Site]:
        """The sites on which the kernel must accept a probe."""
        return [site for site, each in self._boundaries if not self._refusal(site, each)]

    def sites_that_must_be_refused_with(self, number: int) -> list[Site]:
        """The sites on which the kernel must refuse a probe with this errno.

        EINVAL: the architecture cannot step the instruction, or ftrace, a static call or a static branch is patched
        there (jump_label_text_reserved(), kernel/jump_label.c, 6.1). EOPNOTSUPP: the instruction calls through memory
        (prepare_emulation(), arch/x86/kernel/kprobes/core.c, 6.1).
        """
        return [site for site, each in self._boundaries if self._refusal(site, each) == number]

    @property
    def correctly_stepped_sites(self) -> list[Site]:
        """The sites of `accepted_sites` that the architecture steps correctly.

        If the architecture has defects, those are the sites on instructions that do not change the flow of control.
        """
        return [site for site in self.accepted_sites if site not in self._wrong]

    @property
    def wrongly_stepped_sites(self) -> list[Site]:
        """The sites of `accepted_sites` that the architecture may step wrongly."""
        return [site for site in self.accepted_sites if site in self._wrong]

    @cached_property
    def _wrong(self) -> set[Site]:
        defects = self.layout.guest.architecture.kprobe_traits.defects
        return {site for site, each in self._boundaries if defects and each.kind in _LEAVES_THE_LINE}

    @cached_property
    def functions(self) -> list[Symbol]:
        """One symbol for each function, in order of address."""
        found: dict[int, Symbol] = {}
        for symbol in self.target.functions(self.target.lasting_sections, unique=True, preambles=False):
            if self.mutant is HONEST or symbol.name in _OF_A_MUTANT:
                found.setdefault(self.layout.symbol_address(symbol, self.target.module), symbol)
        return [symbol for _, symbol in sorted(found.items())]

    def demand_even_hits(self, probes: ProbeRun) -> None:
        """Raise Missed unless probes on instructions that always run together have the same number of hits."""
        hits: Mapping[Site, int] = {landing.site: landing.hits for landing in probes.landings}
        for symbol in self.functions:
            start = Site(symbol.name, module=self.target.module)
            for group in group_equally_run_offsets(self.target.elf, symbol, self.layout.decoder):
                seen = {offset: hits[start.at_offset(offset)] for offset in group if start.at_offset(offset) in hits}
                if len(set(seen.values())) > 1:
                    counted = ", ".join(f"+{offset:#x}: {times}" for offset, times in seen.items())
                    raise Missed(f"{symbol.name}: instructions that run together were hit unevenly: {counted}")

    def demand_all_hit(self, probes: ProbeRun, shape: str) -> None:
        """Raise Missed if a probe in the shape's function was never hit, unless it is on padding between its parts."""
        start = self.target.shape_site(shape)
        code = decode_function(*self.layout.elf_and_symbol(start), self.layout.decoder)
        between = set(offsets_of_padding_between_parts(code, delay_slots=has_delay_slots(self.layout.decoder)))
        own = (landing for landing in probes.landings if landing.site.symbol == start.symbol)
        unhit = [landing.site for landing in own if not landing.hits and landing.site.offset not in between]
        if unhit:
            raise Missed(f"never hit: {', '.join(map(str, unhit))}")

    @cached_property
    def _boundaries(self) -> list[tuple[Site, Instruction]]:
        return list(self._all())

    def _all(self) -> Iterator[tuple[Site, Instruction]]:
        for symbol in self.functions:
            for each in decode_function(self.target.elf, symbol, self.layout.decoder):
                # A probe changes data, and is never reached there; one before an exclusive store makes it fail forever.
                if each.flow not in (Flow.UNKNOWN, Flow.EXCLUSIVE, Flow.JUMPED_OVER, Flow.WRITTEN_BY_FTRACE):
                    yield Site(symbol.name, each.offset, module=self.target.module), each

    @cached_property
    def _static_branches(self) -> set[tuple[str, int]]:
        return set(module_table_entries(self.target.elf, JUMPS))

    def _offsets_in_patched_instructions(self, start: Site) -> set[int]:
        elf, symbol = self.layout.elf_and_symbol(start)
        code = decode_function(elf, symbol, self.layout.decoder)
        patched = (each for each in code if self._is_patched(symbol, each))
        return {offset for each in patched for offset in range(each.offset, each.end)}

    def _is_patched(self, symbol: Symbol, each: Instruction) -> bool:
        """True if the instruction is a static branch or a static call."""
        if (symbol.section, symbol.address + each.offset) in self._static_branches:
            return True
        if each.kind is not InstructionKind.CALL or self.layout.guest.image.config.get(_INLINE_STATIC_CALLS) != "y":
            return False
        static_calls = offsets_of_relocations_to_prefix(self.target.elf, symbol, _STATIC_CALL)
        return not static_calls.isdisjoint(range(each.offset, each.end))

    def _refusal(self, site: Site, each: Instruction) -> int:
        if each.kind is InstructionKind.THROUGH_MEMORY:
            return errno.EOPNOTSUPP
        # A trap of one byte is x86's int3, which -mharden-sls=all adds after returns (__copy_instruction()).
        trap = each.flow is Flow.ENDS and each.is_padding and each.size == 1
        unsteppable = trap or each.flow is Flow.REFUSED
        refused = unsteppable or self._is_patched(self.layout.elf_and_symbol(site)[1], each)
        return errno.EINVAL if refused else 0
