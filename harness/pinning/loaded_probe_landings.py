"""Judges the landings of a probe module that a loader loads, by the same five witnesses as any other probe."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from harness.landing import five_address_witnesses, own_bytes, past_end, probe_module
from harness.landing.five_address_witnesses import Window
from harness.landing.landing_judgment import Landing, Missed, prove_landings
from harness.landing.layout import Layout
from harness.landing.probe_module import ProbeView
from harness.landing.probe_run import read_until_stable, read_when_restored, window_span
from harness.landing.site import Site


class LoadedProbeRun:
    """A probe module with known sites, in the order of its report, that is loaded and unloaded in a `with` block.

    The block loads the module and then calls `read_while_registered`; leaving it unloads the module. `module` is its
    name in the kernel.
    """

    def __init__(self, layout: Layout, sites: Sequence[Site], module: str) -> None:
        self._layout = layout
        self._guest = layout.guest
        self._sites = tuple(sites)
        self._module = module
        self._addresses = [layout.probe_address(site) for site in self._sites]
        self._spans = [
            window_span(layout, site, address) for site, address in zip(self._sites, self._addresses, strict=True)
        ]
        self._view: ProbeView | None = None
        self._final: ProbeView | None = None
        self._during: Sequence[bytes] = ()
        self._after: Sequence[bytes] = ()

    def __enter__(self) -> Self:
        self._standing = probe_module.read_kprobe_list(self._guest)
        self._before = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is None:  # The module was not loaded.
            return
        self._final = probe_module.unload_probe_module(self._guest, self._module)
        self._after = read_when_restored(self._guest, self._read, self._before)

    def read_while_registered(self) -> ProbeView:
        """Read the module's report, the kernel's list and memory while the probes are registered.

        Raises Missed if the module reports another number of sites.
        """
        self._view = probe_module.read_view(self._guest, self._module)
        self._during = self._read()
        if len(self._view.reports) != len(self._sites):
            raise Missed(f"{self._module} reports {len(self._view.reports)} sites, not {len(self._sites)}")
        return self._view

    def prove(self, hits: Sequence[int]) -> None:
        """Check that each probe landed and was hit as often as `hits` has it. Raises Missed with the witness table."""
        for landing, expected in zip(self.landings, hits, strict=True):
            prove_landings([landing], expected)

    @property
    def landings(self) -> list[Landing]:
        """The landing of each site, with the statements of all witnesses."""
        if self._view is None or self._final is None:
            raise RuntimeError("the probe was never loaded")
        traits, listed = self._guest.architecture.kprobe_traits, self._view.newly_listed(self._standing)
        standing = [each.address for each in self._standing]
        found = []
        for number, (site, address) in enumerate(zip(self._sites, self._addresses, strict=True)):
            start, size = self._spans[number]
            window = Window(start, self._before[number], self._during[number], self._after[number])
            own = own_bytes.own_bytes_at(self._layout, site, start, size)
            last = self._final.reports[number]
            statements = (
                five_address_witnesses.reported_statement(self._view.reports[number]),
                five_address_witnesses.listed_statement(listed, address),
                five_address_witnesses.elf_statement(address),
                five_address_witnesses.hit_address_statement(
                    last, traits, flags=five_address_witnesses.flags_listed_at(listed, address)
                ),
                five_address_witnesses.qemu_memory_statement(window, address, traits, own, standing),
            )
            shown = [five_address_witnesses.with_bytes(statement, window, own, {}) for statement in statements]
            escaped = past_end.describe_outside_address(self._layout, site, address)
            found.append(Landing(site, shown, last.hits, self._layout.describe_address, escaped))
        return found

    def _read(self) -> list[bytes]:
        return read_until_stable(lambda: self._guest.memory.read_many(self._spans))
