"""One life of the probe module on some sites, and all that the witnesses saw of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Self

from harness.core.architecture import KprobeTraits as ProbingTraits
from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing import past_end, probe_module, witness
from harness.landing.landing import Landing, Missed, prove
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.own_bytes import around
from harness.landing.probe_module import ListedProbe, Request, SiteReport
from harness.landing.site import Site
from harness.landing.witness import Window

_PAGE = 4096
# Bytes past a site that are watched: no patch on any architecture of the table is longer than 5, and a few instructions
# behind it shall be there to hold against the ELF.
_BEYOND = 32
_READINGS = 8
_JUMPS_SECONDS = 2.0
_SHOWN_ASTRAY = 4

Relocation = Callable[[Layout, Sequence[Site]], Request]


def _by_symbol(_: Layout, sites: Sequence[Site]) -> Request:
    return Request([site.spec for site in sites])


def settled(read: Callable[[], list[bytes]]) -> list[bytes]:
    """Memory, read until two readings agree: the kernel may be writing a jump there in steps (text_poke_bp())."""
    seen = read()
    for _ in range(_READINGS):
        before, seen = seen, read()
        if seen == before:
            break
    return seen


class ProbeRun:
    """Probes on sites while the `with` block runs; afterwards, what became of them.

    The kernel is asked for each by symbol + offset, unless `relocation` asks in another way; in any way they must land
    where the ELF files say.
    """

    def __init__(
        self,
        layout: Layout,
        sites: Sequence[Site],
        mutant: Mutant = HONEST,
        relocation: Relocation | None = None,
    ) -> None:
        self.layout = layout
        self.guest: Guest = layout.guest
        self.sites = tuple(sites)
        self.mutant = mutant
        self.ended = False
        self.addresses = tuple(layout.address(site) for site in self.sites)
        self._request = (mutant.relocates or relocation or _by_symbol)(layout, self.sites)
        self._spans = [self._span(site, address) for site, address in zip(self.sites, self.addresses, strict=True)]
        self._after = [b""] * len(self._spans)

    @property
    def _traits(self) -> ProbingTraits:
        return self.guest.image.recipe.architecture.kprobes

    def __enter__(self) -> Self:
        self._before = self._read()
        self._own = [around(self.layout, site, *span) for site, span in zip(self.sites, self._spans, strict=True)]
        wrongs = self.mutant.parameters(self.layout, self.sites)
        asked = self._request
        self._view = probe_module.load(self.guest, asked.specs, [*asked.parameters, *wrongs], asked.module)
        self._standing = self._view.standing
        self._during = self._before if self.mutant.stale_snapshot else self._read()
        self._elsewhere = self._astray()
        return self

    def __exit__(self, *_: object) -> None:
        last = probe_module.look if self.mutant.stays else probe_module.unload
        self._final = last(self.guest, self._request.module)
        self._after = self._left()
        self.ended = True

    def _span(self, site: Site, address: int) -> tuple[int, int]:
        """Start and size of the memory watched for a site: from its function's start, in no page without code."""
        _, symbol = self.layout.symbol(site)
        start = address - site.offset
        mapped = -(-(start + max(symbol.size, site.offset + 1)) // _PAGE) * _PAGE
        return start, min(start + site.offset + _BEYOND, mapped) - start

    def _astray(self) -> dict[int, bytes]:
        """Memory at the first addresses of probes that are in no window, for the table of a disagreement."""
        found: dict[int, bytes] = {}
        reported = [each.address for each in self._view.reports if each.address]
        watched = [range(start, start + size) for start, size in self._spans]
        for address in [each for each in reported if not any(each in span for span in watched)][:_SHOWN_ASTRAY]:
            with suppress(GuestError):  # unmapped; a lost guest says so at the next step
                found[address] = self.guest.memory.read(address, witness.SHOWN)
        return found

    def _read(self) -> list[bytes]:
        return settled(lambda: self.guest.memory.read_many(self._spans))

    def _left(self) -> list[bytes]:
        """Memory once the probes are gone, and once the kernel has taken away what it made of them.

        A jump goes some ticks after its probe, by a worker's hand (kick_kprobe_optimizer(), kernel/kprobes.c): seen on
        5.10. What is still there after a while stays.
        """
        left = self._read()
        deadline = Deadline.after(_JUMPS_SECONDS if self.guest.image.recipe.traits.optimized_kprobes else 0.0)
        while left != self._before and not self.mutant.stays and not deadline.expired:
            left = self._read()
        return left

    @property
    def windows(self) -> list[Window]:
        """Guest memory around each site before, during and after; no bytes after while the probes are there."""
        return [
            Window(span[0], *states)
            for span, *states in zip(self._spans, self._before, self._during, self._after, strict=True)
        ]

    def look_again(self) -> None:
        """Read report, list and memory once more: the witnesses speak of now, no longer of the moment of loading."""
        self._view = probe_module.look(self.guest, self._request.module)
        self._during = self._before if self.mutant.stale_snapshot else self._read()

    @property
    def listed(self) -> tuple[ListedProbe, ...]:
        """What the kernel listed of these probes when it was last looked at."""
        return self._view.beyond(self._standing)

    @cached_property
    def reports(self) -> tuple[SiteReport, ...]:
        """The probe module's last report of each site."""
        return self._final.reports

    @cached_property
    def landings(self) -> list[Landing]:
        """What the witnesses say of each site."""
        found = []
        listed = self.listed
        standing = [each.address for each in self._standing]
        for site, address, early, late, window, own in zip(
            self.sites, self.addresses, self._view.reports, self._final.reports, self.windows, self._own, strict=True
        ):
            statements = (
                witness.reported(early),
                witness.listed(listed, address),
                witness.elf(address),
                witness.trapped(late, self._traits),
                witness.outside(window, address, self._traits, own, standing),
            )
            shown = [witness.with_bytes(statement, window, own, self._elsewhere) for statement in statements]
            escaped = past_end.describe(self.layout, site, address)
            found.append(Landing(site, shown, late.hits, self.layout.meaning, escaped))
        return found

    def prove(self, hits: int | None = None) -> None:
        """Every probe landed and was hit `hits` times. Raises Missed with the witness table."""
        prove(self.landings, hits)

    def prove_gone(self) -> None:
        """Nothing is left: no probe listed, no module loaded, the functions' bytes as before. Raises Missed."""
        left = self._final.beyond(self._standing)
        if left:
            raise Missed(f"still listed after unload: {left}")
        if self._request.module in self.guest.read_text("/proc/modules"):
            raise Missed(f"{self._request.module} is still loaded")
        for site, window in zip(self.sites, self.windows, strict=True):
            if not window.restored:
                raise Missed(
                    f"{site}: bytes differ after removal from {window.start:#x}:\n"
                    f"before {window.before.hex()}\nafter  {window.after.hex()}"
                )


class Kprobes:
    """Probes in one guest, as cases use them."""

    def __init__(self, layout: Layout, mutant: Mutant = HONEST) -> None:
        self.layout = layout
        self.mutant = mutant
        self.lives: list[ProbeRun] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.mutant.stays and self.lives:
            probe_module.unload(self.layout.guest)

    def on(self, *sites: Site, relocation: Relocation | None = None) -> ProbeRun:
        """Probes on these sites, in one life of the probe module."""
        probes = ProbeRun(self.layout, sites, self.mutant, relocation)
        self.lives.append(probes)
        return probes

    def attempt(self, *specs: str, module: str = probe_module.MODULE) -> list[int]:
        """Try specs as they stand, in one life of a probe module.

        Gives the errno of each registration, 0 where the kernel took it.
        """
        view = probe_module.load(self.layout.guest, [self.mutant.bad_spec(spec) for spec in specs], module=module)
        probe_module.unload(self.layout.guest, module)
        return [report.errno for report in view.reports]
