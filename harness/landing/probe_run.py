"""Loads the probe module on some sites, unloads it, and judges each landing by its witnesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from harness.core.architecture import KprobeTraits as ProbingTraits
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing import five_address_witnesses, past_end, probe_module
from harness.landing.five_address_witnesses import Window
from harness.landing.landing_judgment import (
    NOT_IN_FORCE,
    Landing,
    Missed,
    MutantNotInForceError,
    demand_registered_elsewhere,
    prove_landings,
)
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.own_bytes import OwnBytes, own_bytes_at
from harness.landing.probe_module import OPTIMIZED, ListedProbe, ProbeModuleRequest, ProbeView, SiteReport
from harness.landing.site import Site

_PAGE = 4096
# Bytes of a window past its site: no patch of any architecture is longer than 5, and the few instructions after it are
# compared with the ELF.
_BEYOND = 32
_READINGS = 8
_JUMPS_SECONDS = 2.0
_SHOWN_ASTRAY = 4

Relocation = Callable[[Layout, Sequence[Site]], ProbeModuleRequest]


def _by_symbol(_: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    return ProbeModuleRequest([site.spec for site in sites])


def read_until_stable(read: Callable[[], list[bytes]]) -> list[bytes]:
    """Read memory until two readings agree, because the kernel writes a jump in several steps (text_poke_bp())."""
    seen = read()
    for _ in range(_READINGS):
        before, seen = seen, read()
        if seen == before:
            break
    return seen


def read_when_restored(guest: Guest, read: Callable[[], list[bytes]], before: Sequence[bytes]) -> list[bytes]:
    """Read memory after the probes are removed and the kernel has undone its optimizations.

    A kernel worker removes a jump some ticks after its probe (kick_kprobe_optimizer(), kernel/kprobes.c; seen on 5.10).
    If memory is not restored after 2 s, it is returned as it is.
    """
    return _read_until(guest, read, lambda left: left == before)


def _read_until(guest: Guest, read: Callable[[], list[bytes]], settled: Callable[[list[bytes]], bool]) -> list[bytes]:
    """Read memory, on a kernel that writes jumps for up to 2 s until it is settled; return it as it is then."""
    deadline = guest.scaled_deadline(_JUMPS_SECONDS if guest.traits.optimized_kprobes else 0.0)
    seen = read()
    while not deadline.expired and not settled(seen):
        seen = read()
    return seen


def window_span(layout: Layout, site: Site, address: int) -> tuple[int, int]:
    """Start and size of a site's window: from the start of its function, without pages that have no code."""
    _, symbol = layout.elf_and_symbol(site)
    start = address - site.offset
    mapped = -(-(start + max(symbol.size, site.offset + 1)) // _PAGE) * _PAGE
    return start, min(start + site.offset + _BEYOND, mapped) - start


@dataclass(frozen=True)
class ProbeRunEvidence:
    """The evidence on one run of the probe module, from before, during and after the registration.

    `memory_before`, `memory_during` and `memory_after` are guest memory, one window per site. `own_bytes` is what the
    ELF has for each window. `view` is the module's report and the kernel's list while the probes are registered;
    `final_view` is the last report, and the list after the removal. `bytes_elsewhere` maps addresses outside of all
    windows, at which a probe was reported, to the bytes there. `final_view` is None and `memory_after` is empty until
    the probes are removed.
    """

    memory_before: Sequence[bytes]
    memory_during: Sequence[bytes]
    own_bytes: Sequence[OwnBytes]
    view: ProbeView
    bytes_elsewhere: Mapping[int, bytes]
    memory_after: Sequence[bytes] = ()
    final_view: ProbeView | None = None


class ProbeRun:
    """Probes that are registered on sites while the `with` block runs; their landings can be read afterwards.

    The kernel resolves each site by symbol + offset, unless `relocation` makes another request. In both cases each
    probe must land where the ELF files place its site.
    """

    def __init__(
        self,
        layout: Layout,
        sites: Sequence[Site],
        mutant: Mutant = HONEST,
        relocation: Relocation | None = None,
        parameters: Sequence[str] = (),
    ) -> None:
        self.layout = layout
        self.guest: Guest = layout.guest
        self.sites = tuple(sites)
        self.mutant = mutant
        self.addresses = tuple(layout.probe_address(site) for site in self.sites)
        request = (mutant.relocation or relocation or _by_symbol)(layout, self.sites)
        kept = () if mutant.drops_case_parameters else parameters
        self._request = replace(request, parameters=[*request.parameters, *kept])
        self._spans = [
            window_span(layout, site, address) for site, address in zip(self.sites, self.addresses, strict=True)
        ]
        self._evidence: ProbeRunEvidence | None = None
        self.unregistered = 0  # the probes that a case has removed, which the list no longer has

    @property
    def _traits(self) -> ProbingTraits:
        return self.guest.architecture.kprobe_traits

    def __enter__(self) -> Self:
        self.layout.measure_slide()
        before = self._read()
        own = [own_bytes_at(self.layout, site, *span) for site, span in zip(self.sites, self._spans, strict=True)]
        extra = self.mutant.parameters(self.layout, self.sites)
        request = self._request
        view = probe_module.load_probe_module(self.guest, request.specs, [*request.parameters, *extra], request.module)
        during = self._read_during(before, own, view)
        self._evidence = ProbeRunEvidence(before, during, own, view, self._astray(view))
        return self

    def __exit__(self, *_: object) -> None:
        last = probe_module.read_view if self.mutant.stays_loaded else probe_module.unload_probe_module
        final = last(self.guest, self._request.module)
        self._evidence = replace(self.evidence, memory_after=self._left(self.evidence.memory_before), final_view=final)
        self._demand_in_force()

    def _demand_in_force(self) -> None:
        """Raise MutantNotInForceError if a probe that a mutant moves or adds was refused, or is at its site."""
        if self.mutant.unlists_second and len(self._entries_of_sites) == len(self.listed_probes):
            raise MutantNotInForceError(f"{NOT_IN_FORCE}: its second probe is not listed")
        if not self.mutant.must_register_elsewhere:
            return
        for site, address, report in zip(self.sites, self.addresses, self.evidence.view.reports, strict=True):
            demand_registered_elsewhere(site, address, report.errno, report.address)

    @property
    def evidence(self) -> ProbeRunEvidence:
        """The evidence recorded so far. Raises RuntimeError if the probes were not registered yet."""
        if self._evidence is None:
            raise RuntimeError("the probes were never registered")
        return self._evidence

    @property
    def is_ended(self) -> bool:
        """True after the probes are removed and memory has been read again."""
        return self._evidence is not None and self._evidence.final_view is not None

    @property
    def _final(self) -> ProbeView:
        final = self.evidence.final_view
        if final is None:
            raise RuntimeError("the probes are still registered")
        return final

    def _astray(self, view: ProbeView) -> dict[int, bytes]:
        """Memory at reported addresses outside of all windows, for the witness table; only the first few are read."""
        found: dict[int, bytes] = {}
        reported = [each.address for each in view.reports if each.address]
        watched = [range(start, start + size) for start, size in self._spans]
        for address in [each for each in reported if not any(each in span for span in watched)][:_SHOWN_ASTRAY]:
            with suppress(GuestError):  # The address is unmapped. If the guest is lost, the next step raises.
                found[address] = self.guest.memory.read(address, five_address_witnesses.SHOWN)
        return found

    def _read(self) -> list[bytes]:
        return read_until_stable(lambda: self.guest.memory.read_many(self._spans))

    def _read_during(self, before: Sequence[bytes], own: Sequence[OwnBytes], view: ProbeView) -> Sequence[bytes]:
        """Read memory while the probes are registered, again for a while if it has a jump that is half written.

        A second CPU that is slow to answer holds the kernel between two steps for longer than two readings take.
        """
        if self.mutant.stale_snapshot:
            return before
        standing = [each.address for each in view.listed_before_load]

        def settled(seen: Sequence[bytes]) -> bool:
            return not any(
                Window(start, early, late, b"").describe_unexplained_bytes(code, self._traits, standing)
                for (start, _), early, late, code in zip(self._spans, before, seen, own, strict=True)
            )

        return _read_until(self.guest, self._read, settled)

    def _left(self, before: Sequence[bytes]) -> list[bytes]:
        """Read memory after the probes are removed; a mutant that leaves them is not waited for."""
        return self._read() if self.mutant.stays_loaded else read_when_restored(self.guest, self._read, before)

    @property
    def memory_windows(self) -> list[Window]:
        """Guest memory around each site before, during and after; `after` is empty while the probes are registered."""
        record = self.evidence
        after = record.memory_after or [b""] * len(self._spans)
        return [
            Window(start, *states)
            for (start, _), *states in zip(self._spans, record.memory_before, record.memory_during, after, strict=True)
        ]

    def read_again(self) -> None:
        """Read report, list and memory again; the witnesses then describe this moment, not the registration."""
        view = probe_module.read_view(self.guest, self._request.module)
        view = replace(view, listed_before_load=self.evidence.view.listed_before_load)
        during = self._read_during(self.evidence.memory_before, self.evidence.own_bytes, view)
        self._evidence = replace(self.evidence, view=view, memory_during=during)

    @property
    def listed_probes(self) -> tuple[ListedProbe, ...]:
        """The kernel's list of these probes, as last read."""
        return self.evidence.view.newly_listed(self.evidence.view.listed_before_load)

    @property
    def _entries_of_sites(self) -> tuple[ListedProbe, ...]:
        """One entry of the list for each registered site; the list may have more."""
        left, found = list(self.listed_probes), []
        for report in self.evidence.view.reports:
            entry = next((each for each in left if each.address == report.address and not report.errno), None)
            if entry is not None:
                left.remove(entry)
                found.append(entry)
        return tuple(found)

    @property
    def last_read_reports(self) -> tuple[SiteReport, ...]:
        """The probe module's report on each site, as last read."""
        return self.evidence.view.reports

    @cached_property
    def final_reports(self) -> tuple[SiteReport, ...]:
        """The probe module's last report on each site."""
        return self._final.reports

    @cached_property
    def landings(self) -> list[Landing]:
        """The landing of each site, with the statements of all witnesses."""
        found = []
        record = self.evidence
        listed = self._entries_of_sites if self.mutant.unlists_second else self.listed_probes
        seen = () if self.mutant.stale_list else listed
        registered = sum(not report.errno for report in record.view.reports) - self.unregistered
        standing = [each.address for each in record.view.listed_before_load]
        optimized = {each.address for each in listed if OPTIMIZED in each.flags}
        for site, address, early, late, window, own in zip(
            self.sites,
            self.addresses,
            record.view.reports,
            self.final_reports,
            self.memory_windows,
            record.own_bytes,
            strict=True,
        ):
            statements = (
                five_address_witnesses.reported_statement(early),
                five_address_witnesses.listed_statement(seen, address, registered),
                five_address_witnesses.elf_statement(address, self.layout.symbol_confirmed_by(site)),
                five_address_witnesses.hit_address_statement(
                    late,
                    self._traits,
                    optimized=address in optimized,
                    flags=five_address_witnesses.flags_listed_at(listed, address),
                ),
                five_address_witnesses.qemu_memory_statement(
                    window, address, self._traits, own, standing, {each.address for each in listed}
                ),
            )
            shown = [
                five_address_witnesses.with_bytes(statement, window, own, record.bytes_elsewhere)
                for statement in statements
            ]
            escaped = past_end.describe_outside_address(self.layout, site, address)
            found.append(Landing(site, shown, late.hits, self.layout.describe_address, escaped))
        return found

    def prove(self, hits: int | None = None) -> None:
        """Check that every probe landed and was hit `hits` times. Raises Missed with the witness table."""
        prove_landings(self.landings, hits)

    def prove_gone(self) -> None:
        """Check that no probe is listed, the module is not loaded and the bytes are restored. Raises Missed."""
        left = self._final.newly_listed(self.evidence.view.listed_before_load)
        if left:
            raise Missed(f"still listed after unload: {left}")
        if self._request.module in self.guest.read_text("/proc/modules"):
            raise Missed(f"{self._request.module} is still loaded")
        for site, window in zip(self.sites, self.memory_windows, strict=True):
            if not window.restored:
                raise Missed(
                    f"{site}: bytes differ after removal from {window.start:#x}:\n"
                    f"before {window.before.hex()}\nafter  {window.after.hex()}"
                )


class Kprobes:
    """The `kprobes` fixture: registers probes in one guest."""

    def __init__(self, layout: Layout, mutant: Mutant = HONEST) -> None:
        self.layout = layout
        self.mutant = mutant
        self.lives: list[ProbeRun] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.mutant.stays_loaded and self.lives:
            probe_module.unload_probe_module(self.layout.guest)

    def on(self, *sites: Site, relocation: Relocation | None = None, parameters: Sequence[str] = ()) -> ProbeRun:
        """Return a run of probes on these sites; the probe module is loaded once, with these parameters."""
        probes = ProbeRun(self.layout, sites, self.mutant, relocation, parameters)
        self.lives.append(probes)
        return probes

    def try_to_register_specs(
        self, *specs: str, module: str = probe_module.MODULE, parameters: Sequence[str] = ()
    ) -> list[int]:
        """Load a probe module once and try to register these specs unchanged; most mutants get no parameters.

        Returns the errno of each registration, 0 for success.
        """
        passed = parameters if self.mutant is HONEST or self.mutant.replaces_last_spec_only else ()
        tried = [self.mutant.replace_refused_spec(spec) for spec in specs]
        if self.mutant.replaces_last_spec_only:
            tried[:-1] = specs[:-1]
        view = probe_module.load_probe_module(self.layout.guest, tried, passed, module)
        probe_module.unload_probe_module(self.layout.guest, module)
        return [report.errno for report in view.reports]
