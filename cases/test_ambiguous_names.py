"""If several functions share a name, the kernel probes one of them by a fixed rule and reports no error.

register_kprobe() calls kallsyms_lookup_name() (kernel/kallsyms.c, kernel/module/kallsyms.c, 6.1): vmlinux before
modules; in vmlinux the lowest address; among modules the newest; in one module the first in its symbol table. tracefs
and perf refuse such a name.
"""

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import sample_ambiguous_names
from harness.landing.probe_module import SiteReport
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 3
# How many of the names that vmlinux has more than once are tried; a registration costs milliseconds.
SAMPLE = 24


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("pinpoint_target", "pinpoint_second"),
        pytest.param("pinpoint_second", "pinpoint_target", marks=pytest.mark.deep),
    ],
)
def test_newest_module_wins(guest: Guest, kprobes_in: Callable[..., Kprobes], first: str, last: str) -> None:
    """If two modules have a function of one name, SYM is the newest module's function; MOD:SYM names the other."""
    with Target(guest, first) as older, Target(guest, last) as newer:
        kprobes = kprobes_in(guest, older, newer)
        sites = (newer.shape_site("leaf", plain=True), older.shape_site("leaf"))
        with kprobes.on(*map(kprobes.layout.entry_site, sites)) as probes:
            newer.call_for_checksum("leaf", TIMES)
            older.call_for_checksum("leaf", TIMES)
        probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_kernel_beats_module(guest: Guest, kprobes_in: Callable[..., Kprobes]) -> None:
    """SYM is the kernel's function, even a static one, rather than a module's; MOD:SYM names the module's."""
    with Target(guest, "pinpoint_second") as second:
        by_name = Site("version_proc_show")
        kprobes = kprobes_in(guest, second)
        sites = (by_name, Site(by_name.symbol, module=second.module))
        with kprobes.on(*map(kprobes.layout.entry_site, sites)) as probes:
            second.call_for_checksum("version_proc_show", TIMES)
            for _ in range(TIMES):
                guest.run("cat", "/proc/version").check()
        probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_first_of_a_module(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Of two static functions of one name in a module, the first in the symbol table is probed."""
    twins = [symbol for symbol in target.elf.symbols_named("pinpoint_twin") if symbol.kind == "func"]
    assert len(twins) > 1, "the module has no twins"
    entry = layout.entry_site(target.shape_site("twin"))
    with kprobes.on(entry) as probes:
        target.call_for_checksum("twin", TIMES)
        target.call_for_checksum("other_twin", TIMES)
    probes.prove(hits=TIMES)
    first = layout.symbol_address(twins[0], target.module) + entry.offset + layout.landing_pad_size(entry)
    if first != probes.final_reports[0].address:
        raise Missed(f"not the first in the symbol table\n\n{probes.landings[0].format_witness_table()}")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_lowest_in_the_kernel(layout: Layout, kprobes: Kprobes) -> None:
    """Of several kernel functions of one name, the one at the lowest address is probed.

    Some of them run all the time. Where nested hits are fatal, one is probed after the other.
    """
    names = sample_ambiguous_names(layout, SAMPLE)
    assert names, "no name is used twice"
    entries = [layout.entry_site(Site(name)) for name in names]
    apart = layout.guest.architecture.kprobe_traits.nested_hit_is_fatal
    reports: list[SiteReport] = []
    for group in [[each] for each in entries] if apart else [entries]:
        with kprobes.on(*group) as probes:
            pass
        probes.prove()
        reports += probes.final_reports
    for name, entry, report in zip(names, entries, reports, strict=True):
        lowest = min(symbol.address for symbol in layout.kernel.symbols_named(name)) + layout.slide
        lowest += entry.offset + layout.landing_pad_size(entry)
        if report.address != lowest:
            raise Missed(f"{name} landed at {report.address:#x}, the lowest is {lowest:#x}")
