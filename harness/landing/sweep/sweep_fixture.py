"""Sweeps in one cell: the fixture that cases use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core.events import Bus
from harness.landing.code.function_selection import evenly_spread
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decode_function
from harness.landing.layout import Layout
from harness.landing.mutants import HONEST, Mutant
from harness.landing.site import Site
from harness.landing.sweep import sweep_plan, tracefs_speed_comparison
from harness.landing.sweep.batched_sweep import Sweep, SweepResult
from harness.landing.sweep.sweep_module import SweepModule
from harness.landing.sweep.sweep_past_deadly_sites import FreshGuestFactory, FreshGuests, sweep_one_guest_or_raise
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.sweep.tracefs_speed_comparison import TracefsSeconds
from harness.landing.target import Target

# Shapes of the target on which a mutant is tried; more would prove nothing more.
_SHAPES = ("leaf", "static", "calls", "loop")
_CORES = len(os.sched_getaffinity(0))
# Sites for the comparison with tracefs: one batch, because each batch has fixed costs.
_PEER_SITES = sweep_plan.ARMED_BATCH


@dataclass(frozen=True)
class Sweeps:
    """Sweeps of one cell's VM. `workers` is the number of guests of its own that a sweep may use at once."""

    layout: Layout
    open_fresh_guest: FreshGuestFactory
    bus: Bus
    mutant: Mutant = HONEST
    depth: Depth = Depth.SAMPLE
    workers: int = _CORES

    @property
    def eligible_count(self) -> int:
        """The number of sites in a sweep of the whole kernel and of the loaded targets."""
        return len(sweep_plan.entry_sites_with_unique_names(self.layout))

    def sweep_disabled(self) -> SweepResult:
        """Register sites disabled in the row's own guest, so that nothing is patched."""
        sites = (
            self._few() if self.mutant is not HONEST else sweep_plan.sites_to_register_disabled(self.layout, self.depth)
        )
        return self._here(sites, armed=False, size=sweep_plan.RESOLVED_BATCH)

    def sweep_armed_on_fresh_guests(self) -> SweepResult:
        """Arm sites on fresh guests, which may die of it; several guests are used if every site is swept."""
        if self.mutant is not HONEST:
            return self._here(self._few(), armed=True, size=sweep_plan.ARMED_BATCH)
        workers = self.workers if self.depth is Depth.ALL else 1
        return self.sweep_on_fresh_guests(sweep_plan.sites_to_arm(self.layout, self.depth), workers=workers)

    def sweep_on_fresh_guests(
        self, sites: Sequence[Site], *, workers: int = 1, parameters: Sequence[str] = ()
    ) -> SweepResult:
        """Arm these sites on fresh guests; `parameters` are passed to the sweep module."""
        with self.bus.step(self.layout.guest.name, "armed") as step:
            guests = FreshGuests(self.open_fresh_guest, step, workers=workers, parameters=parameters)
            swept = guests.sweep_batches(sweep_plan.divide_into_batches_to_arm(self.layout, sites))
            step.set_final_detail(
                f"{swept.site_count} sites, {swept.sites_per_second:.0f} a second, {guests.guests} guests"
            )
        return swept

    def compare_with_tracefs(self) -> tuple[SweepResult, TracefsSeconds]:
        """Measure the same sites in the same guest, through tracefs and through the sweep module.

        The time of the sweep module includes all transfers, the reads from outside and the comparison. Neither time
        includes the loading of modules. A fresh guest is used, because probes that are removed while ftrace is off
        leave flags in ftrace's records, for which the kernel warns when the last probe is removed later
        (ftrace_shutdown(), kernel/trace/ftrace.c:3089, 6.1.192).
        """
        with (
            self.open_fresh_guest() as other,
            Target(other, "pinpoint_target") as target,
            Target(other, "pinpoint_sections") as more,
        ):
            return replace(self, layout=Layout(other, [target, more]))._compare_with_tracefs()

    def _compare_with_tracefs(self) -> tuple[SweepResult, TracefsSeconds]:
        """Measure entries from all over the kernel, or instructions of idle targets if a nested hit is fatal.

        tracefs arms probes while the guest runs, and its handler runs many kernel functions, so that one hit is inside
        of another. Entries that a documented defect makes dangerous then are left out.
        """
        fatal = self.layout.guest.architecture.kprobe_traits.nested_hit_is_fatal
        idle = (
            start.at_offset(each.offset)
            for start in sweep_plan.target_entry_sites(self.layout)
            for each in decode_function(*self.layout.elf_and_symbol(start), self.layout.decoder)
            if each.flow is not Flow.REFUSED
        )
        sites = evenly_spread(
            list(idle) if fatal else sweep_plan.entry_sites_with_unique_names(self.layout), _PEER_SITES
        )
        sites = sweep_plan.without_defective_entries(self.layout, sites)
        with self.bus.step(self.layout.guest.name, "tracefs") as step:
            peer = tracefs_speed_comparison.time_cycle(self.layout.guest, sites)
            step.set_final_detail(f"{peer.site_count} sites, {peer.sites_per_second:.1f} a second")
        return self._here(sites, armed=True, size=_PEER_SITES, idle=fatal), peer

    def _here(self, sites: Sequence[Site], *, armed: bool, size: int, idle: bool = False) -> SweepResult:
        """Sweep these sites in the row's own guest."""
        module = SweepModule(self.layout.guest, self.mutant.parameters(self.layout, sites))
        sweep = Sweep(self.layout, module, armed=armed, mutant=self.mutant, idle=idle)
        module.load()
        try:
            with self.bus.step(self.layout.guest.name, "armed" if armed else "resolved") as step:
                swept = sweep_one_guest_or_raise(sweep, sweep_plan.divide_into_spread_batches(sites, size), step)
                step.set_final_detail(f"{swept.site_count} sites, {swept.sites_per_second:.0f} a second")
        finally:
            module.unload()
        return swept

    def _few(self) -> list[Site]:
        return [
            self.layout.entry_site(target.shape_site(shape))
            for target in self.layout.targets.values()
            for shape in _SHAPES
        ]
