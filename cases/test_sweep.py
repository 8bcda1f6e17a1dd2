"""In a sweep over a kernel, every function with a unique name resolves to the address that its ELF file gives.

The kernel resolves symbol_name + offset; pinpoint_sweep registers thousands of kprobes at once. Each refused site must
be on the kernel's own blacklist or have another reason that docs/sweeps.md lists with file and line.
"""

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.sweep import tracefs_speed_comparison
from harness.landing.sweep.sweep_fixture import Sweeps
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure
from harness.verdict.cell_verdict_enum import end_as_known_fail

pytestmark = [pytest.mark.sweep, pytest.mark.requires("kprobes"), pytest.mark.usefixtures("target")]


@pytest.mark.mutants("explains-all", deep=("reserves-all", "one-instruction-off", "only-reported"))
def test_resolves(sweeps: Sweeps, figure: Callable[..., Figure]) -> None:
    """Reported, listed and ELF addresses agree for functions with unique names, registered disabled.

    Each refusal has a reason in the kernel's tables, and no site in those tables is accepted. At least 80 % land. A
    sample spread over the text is tried; with --sweep=kernel and in the full matrix, every function.
    """
    swept = sweeps.sweep_disabled()
    figure("sweep.eligible", sweeps.eligible_count, "sites")
    figure("sweep.resolved", swept.site_count, "sites")
    figure("sweep.landed", swept.landed_count, "sites")
    figure("sweep.unexplained", len(swept.unexplained_site_descriptions), "sites", goal="0")
    for reason, count in swept.refused_by_reason.items():
        figure(f"sweep.refused.{reason.replace(',', '').replace(' ', '_')}", count, "sites")
    figure("sweep.per_second", round(swept.sites_per_second, 1), "sites/s")
    figure("sweep.seconds", round(swept.seconds, 1), "s", goal="at most 180")
    swept.prove()


@pytest.mark.deep
@pytest.mark.mutants("one-instruction-off", "only-reported", "stale-snapshot")
def test_arms(sweeps: Sweeps, figure: Callable[..., Figure]) -> None:
    """Armed sites are listed and have breakpoints, read from outside; once removed, the original bytes are back.

    A sample is armed, or everything with --sweep=all. --sweep=kernel also arms all of a small kernel.
    """
    swept = sweeps.sweep_armed_on_fresh_guests()
    figure("sweep.armed", swept.site_count, "sites")
    figure("sweep.armed_landed", swept.landed_count, "sites")
    figure("sweep.armed_unexplained", len(swept.unexplained_site_descriptions), "sites", goal="0")
    figure("sweep.armed_per_second", round(swept.sites_per_second, 1), "sites/s")
    figure("sweep.armed_deadly", len(swept.fatal_sites), "sites")
    swept.prove()
    if swept.fatal_sites:
        sites = ", ".join(death.site.symbol for death in swept.fatal_sites)
        end_as_known_fail(f"a probe kills the guest at {sites}: {swept.fatal_sites[0].reason}")


@pytest.mark.full
def test_compared_with_tracefs(guest: Guest, sweeps: Sweeps, figure: Callable[..., Figure]) -> None:
    """Arming, reading and removing sites by a sweep is compared with the whole cycle of tracefs on the same sites.

    Both run in the same guest. The ratio is a figure with a goal, not a verdict, because other load on the host
    disturbs the measurement.
    """
    if lacking := tracefs_speed_comparison.unavailable_reason(guest):
        pytest.skip(f"{guest.name}: {lacking}")
    ours, peer = sweeps.compare_with_tracefs()
    figure("sweep.tracefs_per_second", round(peer.sites_per_second, 1), "sites/s")
    figure("sweep.ratio_to_tracefs", round(ours.sites_per_second / peer.sites_per_second, 1), "x", goal="at least 3")
    ours.prove()


@pytest.mark.deep
@pytest.mark.parametrize("way", ["oops-at", pytest.param("hang-at", marks=pytest.mark.full)])
def test_survives_a_deadly_site(layout: Layout, target: Target, sweeps: Sweeps, way: str) -> None:
    """A site that kills the guest is found with fresh guests and named, and all other sites are swept."""
    deadly = layout.entry_site(target.shape_site("loop"))
    sites = [target.shape_site(shape) for shape in ("leaf", "static", "calls", "recursive", "loop", "cold_part")]
    sites += [Site("clock_t_to_jiffies"), Site("version_proc_show"), Site("task_mem")]
    sites = [layout.entry_site(site) for site in sites]
    swept = sweeps.sweep_on_fresh_guests(sites, parameters=[f"mutant={way}", f"mutant_site={deadly.at_offset(0).spec}"])
    assert [death.site for death in swept.fatal_sites] == [deadly]
    assert swept.landed_count == len(sites) - 1, swept.unexplained_site_descriptions
