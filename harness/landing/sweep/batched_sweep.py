"""Sweeps: thousands of sites registered in batches, each judged by its witnesses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from harness.core.deadline import Deadline
from harness.guest.guest import Guest
from harness.landing import five_address_witnesses
from harness.landing.five_address_witnesses import Statement, Window
from harness.landing.landing_judgment import Landing, Missed
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.probe_module import SiteReport
from harness.landing.site import Site
from harness.landing.sweep import sweep_plan
from harness.landing.sweep.documented_refusal_reasons import RefusalReasonFinder
from harness.landing.sweep.sweep_module import BatchReport, SweepModule

# The time limit of a batch: a fixed part, and a part for each site. Under emulation on a busy host a site of the stock
# x86_64 kernel took 0.045 s to arm and 0.03 s to remove.
_BATCH_SECONDS = 30.0
_SITE_SECONDS = 0.15
# Bytes watched at each site; no patch of any architecture is longer than 5.
_WATCHED = 8
_PAGE = 4096
# The part of the sites that must land. 99 % of the functions do on each core VM; samples to arm have more entries of
# the kinds that the kernel refuses.
FEWEST_LANDED = 0.8


class FatalSite(NamedTuple):
    """A site that killed a guest, and the documented kernel defect that is the reason; "" if there is none."""

    site: Site
    reason: str


class ReservedSite(NamedTuple):
    """A site on which the kernel accepted a probe, and the table of the kernel for which it must refuse it."""

    site: Site
    table: str


class RefusedSite(NamedTuple):
    """A site that the kernel refused, the errno (positive), and the documented reason; "" if there is none."""

    site: Site
    errno: int
    reason: str


@dataclass
class SweepResult:
    """The results of sweeping some sites.

    `seconds` is the time that the sweep took by the host's clock. `missed_landings` holds the landings with a
    complaint, `fatal_sites` the sites that killed a guest, `accepted_reserved_sites` those that the kernel should have
    refused.
    """

    landed_count: int = 0
    missed_landings: list[Landing] = field(default_factory=list)
    refused_sites: list[RefusedSite] = field(default_factory=list)
    fatal_sites: list[FatalSite] = field(default_factory=list)
    accepted_reserved_sites: list[ReservedSite] = field(default_factory=list)
    hits: int = 0
    seconds: float = 0.0

    @property
    def site_count(self) -> int:
        """The number of sites that were tried."""
        refused = len(self.refused_sites) + len(self.accepted_reserved_sites)
        return self.landed_count + len(self.missed_landings) + refused + len(self.fatal_sites)

    @property
    def sites_per_second(self) -> float:
        """Sites per second of the host's clock."""
        return self.site_count / self.seconds if self.seconds else 0.0

    @property
    def unexplained_site_descriptions(self) -> list[str]:
        """One line for each site that did not land and has no documented reason, or was accepted in spite of one."""
        return [
            *(
                f"{refusal.site}: refused with errno {refusal.errno}"
                for refusal in self.refused_sites
                if not refusal.reason
            ),
            *(f"{landing.site}: {landing.complaint}" for landing in self.missed_landings),
            *(f"{each.site}: accepted, though in the table: {each.table}" for each in self.accepted_reserved_sites),
            *(f"{death.site}: kills the guest" for death in self.fatal_sites if not death.reason),
        ]

    @property
    def refused_by_reason(self) -> Mapping[str, int]:
        """The number of refused sites for each documented reason."""
        return Counter(refusal.reason or "unexplained" for refusal in self.refused_sites)

    @property
    def _reasons(self) -> str:
        return ", ".join(f"{count} refused: {reason}" for reason, count in self.refused_by_reason.items())

    def add(self, other: SweepResult) -> None:
        """Add the results of more sites."""
        self.landed_count += other.landed_count
        self.missed_landings += other.missed_landings
        self.refused_sites += other.refused_sites
        self.fatal_sites += other.fatal_sites
        self.accepted_reserved_sites += other.accepted_reserved_sites
        self.hits += other.hits
        self.seconds += other.seconds

    def prove(self) -> None:
        """Raise Missed, with one witness table, unless every site landed or has a documented reason.

        Most sites must land: reasons for all of them would prove nothing.
        """
        strange = self.unexplained_site_descriptions
        if not strange:
            if self.landed_count < FEWEST_LANDED * self.site_count:
                raise Missed(f"only {self.landed_count} of {self.site_count} sites landed: {self._reasons}")
            return
        table = f"\n\n{self.missed_landings[0].format_witness_table()}" if self.missed_landings else ""
        shown = "\n".join(strange[:20])
        raise Missed(f"{len(strange)} of {self.site_count} sites are unexplained:\n{shown}{table}")


class Sweep:
    """Sweeps one guest.

    With `armed`, breakpoints are written and read from outside; without it, nothing is patched. `idle` is set if
    nothing runs the sites; they are then armed in the running guest even if a nested hit is fatal there.
    `wrong` maps the sites of the present batch that the kernel would step wrongly to the defect.
    """

    def __init__(
        self, layout: Layout, module: SweepModule, *, armed: bool, mutant: Mutant = HONEST, idle: bool = False
    ) -> None:
        self.layout = layout
        self.guest: Guest = layout.guest
        self.module = module
        self.armed = armed
        self._idle = idle
        self.mutant = mutant
        self.wrong: dict[Site, str] = {}
        self._refusals = RefusalReasonFinder(layout, mutant)
        self._traits = self.guest.architecture.kprobe_traits

    def sweep_as_one_batch(self, sites: Sequence[Site]) -> SweepResult:
        """Sweep these sites as one batch. Raises GuestError, GuestLost or DeadlineExceeded if the guest dies of it."""
        began = time.monotonic()
        deadline = self.guest.scaled_deadline(_BATCH_SECONDS + _SITE_SECONDS * len(sites))
        swept = SweepResult()
        addresses = [self.layout.probe_address(site) for site in sites]
        for site, address, (report, statements) in zip(
            sites, addresses, self._sweep(sites, addresses, deadline), strict=True
        ):
            self._judge(swept, Landing(site, statements, report.hits, self.layout.describe_address), report, address)
        swept.seconds = time.monotonic() - began
        return swept

    def _sweep(self, sites: Sequence[Site], addresses: Sequence[int], deadline: Deadline) -> Iterator[_SiteStatements]:
        """Register the sites and yield the witnesses' statements on each.

        If a nested hit is fatal on the architecture, breakpoints exist only while nothing but the sweep module runs.
        """
        if not self.armed:
            return self._resolved(sites, addresses, deadline)
        self.wrong = sweep_plan.defects_of_wrongly_stepped(self.layout, sites)
        held = self._traits.nested_hit_is_fatal and not self._idle
        return (self._held if held else self._armed)(sites, addresses, deadline)

    def _judge(self, swept: SweepResult, landing: Landing, report: SiteReport, address: int) -> None:
        swept.hits += report.hits
        if report.errno:
            reason = self._refusals.reason(landing.site, address, report.errno)
            swept.refused_sites.append(RefusedSite(landing.site, report.errno, reason))
        elif table := self._refusals.must_refuse(address):
            swept.accepted_reserved_sites.append(ReservedSite(landing.site, table))
        elif landing.complaint:
            swept.missed_landings.append(landing)
        else:
            swept.landed_count += 1

    def _resolved(
        self, sites: Sequence[Site], addresses: Sequence[int], deadline: Deadline
    ) -> Iterator[_SiteStatements]:
        specs = [self.mutant.replace_refused_spec(site.spec) for site in sites]
        batch = self.module.register_disabled(specs, deadline)
        for address, report in zip(addresses, batch.reports, strict=True):
            listed = five_address_witnesses.listed_statement(batch.listing.nearest_entries(address), address)
            yield (
                report,
                (
                    five_address_witnesses.reported_statement(report),
                    listed,
                    five_address_witnesses.elf_statement(address),
                ),
            )

    def _held(self, sites: Sequence[Site], addresses: Sequence[int], deadline: Deadline) -> Iterator[_SiteStatements]:
        """Arm the sites while nothing else runs; the list is read after that, when the probes are disabled."""
        specs = [site.spec for site in sites]
        spans = _spans(addresses)
        before = self.guest.memory.read_many(spans)
        held, during = self.module.register_armed_and_hold_guest(
            specs, lambda: self.guest.memory.read_many(spans), deadline
        )
        during = before if self.mutant.stale_snapshot else during
        removed = self.module.remove_probes(specs, deadline)
        _demand_gone(removed)
        memory = zip(before, during, self.guest.memory.read_many(spans), strict=True)
        for address, report, states in zip(addresses, held.reports, memory, strict=True):
            entries = held.listing.nearest_entries(address)
            flags = five_address_witnesses.flags_listed_at(entries, address)
            listed = five_address_witnesses.listed_statement(entries, address)
            yield report, self._statements(address, report, report, listed, flags, Window(address, *states))

    def _armed(self, sites: Sequence[Site], addresses: Sequence[int], deadline: Deadline) -> Iterator[_SiteStatements]:
        specs = [site.spec for site in sites]
        spans = _spans(addresses)
        before = self.guest.memory.read_many(spans)
        armed = self.module.register_armed(specs, deadline)
        during = before if self.mutant.stale_snapshot else self.guest.memory.read_many(spans)
        removed = self.module.remove_probes(specs, deadline)
        _demand_gone(removed)
        memory = zip(before, during, self.guest.memory.read_many(spans), strict=True)
        for address, early, late, states in zip(addresses, armed.reports, removed.reports, memory, strict=True):
            entries = armed.listing.nearest_entries(address)
            flags = five_address_witnesses.flags_listed_at(entries, address)
            listed = _enabled(five_address_witnesses.listed_statement(entries, address))
            yield late, self._statements(address, early, late, listed, flags, Window(address, *states))

    def _statements(
        self,
        address: int,
        early: SiteReport,
        late: SiteReport,
        listed: Statement,
        flags: Sequence[str],
        window: Window,
    ) -> tuple[Statement, ...]:
        outside = five_address_witnesses.qemu_memory_statement(window, address, self._traits)
        if address in self.module.addresses_listed_before and window.probe_patch_length_at(address, self._traits):
            # Memory does not change for a second probe on a site. On parisc the kernel has a probe of its own on
            # __kretprobe_trampoline.
            outside = Statement("outside", address, "a probe was there before")
        return (
            five_address_witnesses.reported_statement(early),
            listed,
            five_address_witnesses.elf_statement(address),
            five_address_witnesses.hit_address_statement(late, self._traits, flags=flags),
            _restored(outside, window),
        )


_SiteStatements = tuple[SiteReport, tuple[Statement, ...]]


def _spans(addresses: Sequence[int]) -> list[tuple[int, int]]:
    """The memory to watch at each address, cut off at the end of its page."""
    return [(address, min(_WATCHED, _PAGE - address % _PAGE)) for address in addresses]


def _demand_gone(removed: BatchReport) -> None:
    if len(removed.listing):
        raise Missed(f"{len(removed.listing)} probes are still listed after removal")


def _enabled(listed: Statement) -> Statement:
    """The `listed` statement of an armed probe; it contradicts if the probe is listed as disabled."""
    return replace(listed, contradicts=listed.contradicts or "[DISABLED]" in listed.detail)


def _restored(outside: Statement, window: Window) -> Statement:
    """The `outside` statement; it contradicts if the bytes after removal differ from those before registration."""
    if window.restored:
        return outside
    left = f"{outside.detail}; after removal memory has {window.after.hex()}, not {window.before.hex()}"
    return replace(outside, detail=left, contradicts=True)
