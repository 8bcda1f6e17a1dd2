"""A site given as file:line lands by section + offset where symbol + offset lands; another build refuses it.

The section and offset come from the module's DWARF line table, without a symbol of the target. They are valid only for
the build with that line table, whose build-id is kept with them. Here the harness compares the build-ids and adds the
section's loaded address from sysfs; `cases/test_precompiled.py` has a probe module that does both itself.
"""

from collections.abc import Callable

import pytest

from harness.core import paths
from harness.core.elf import Elf
from harness.core.source_line_to_offset import find_line_number
from harness.guest.guest import Guest
from harness.landing.checks.refusals import expect_other_build_refused
from harness.landing.precompiled_sites import PrecompiledSite, request_by_section
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure

TIMES = 3
SHAPES = ("leaf", "calls", "static")
FIRST_BY_DEFAULT = [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.deep) for shape in SHAPES[1:])]
# Lines of pinpoint_mix(), which is inlined into every shape, so each line has code in many functions.
SOURCE = "shapes.h"
LINES = ("x ^= x << 13;", "x += salt;", "x ^= x >> 11;")


def sites_at_lines(elf: Elf, shape: str) -> list[PrecompiledSite]:
    """Return the sites of the lines in one shape of one build of pinpoint_target."""
    return [
        PrecompiledSite.at_line(
            "pinpoint_target",
            elf,
            SOURCE,
            find_line_number(paths.PROBES / "target" / SOURCE, text),
            f"pinpoint_{shape}",
        )
        for text in LINES
    ]


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
@pytest.mark.parametrize("shape", FIRST_BY_DEFAULT)
def test_line(target: Target, kprobes: Kprobes, shape: str) -> None:
    """Sites by section + offset and by symbol + offset land at the same addresses and are hit once for each call."""
    sites = sites_at_lines(target.elf, shape)
    with kprobes.on(*sites, relocation=request_by_section) as by_line:
        target.call_for_checksum(shape, TIMES)
    by_line.prove(hits=TIMES)
    with kprobes.on(*sites) as by_symbol:
        target.call_for_checksum(shape, TIMES)
    by_symbol.prove(hits=TIMES)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("stale-offset")
def test_other_build_is_refused(guest: Guest, rebuilt: Target, kprobes: Kprobes, figure: Callable[..., Figure]) -> None:
    """Sites of one build are refused in another build of the same module, in which each of them would miss."""
    made = [
        site
        for shape in SHAPES
        for site in sites_at_lines(Elf.read_cached(guest.image.modules["pinpoint_target"]), shape)
    ]
    meant = [site for shape in SHAPES for site in sites_at_lines(rebuilt.elf, shape)]
    refused = expect_other_build_refused(kprobes, made, meant)
    assert rebuilt.build_id in str(refused)
    assert "\n" not in str(refused)
    missed_by = [
        rebuilt.sections[stale.section] + stale.section_offset - kprobes.layout.probe_address(site)
        for stale, site in zip(made, meant, strict=True)
    ]
    assert all(missed_by), f"a stale offset would have landed: {missed_by}"
    figure("precompiled.stale_misses_by", max(map(abs, missed_by)), "bytes")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
@pytest.mark.parametrize("shape", FIRST_BY_DEFAULT)
def test_other_build_with_its_own_sites(rebuilt: Target, kprobes: Kprobes, shape: str) -> None:
    """Control: the same lines from the other build's own line table land in that build."""
    with kprobes.on(*sites_at_lines(rebuilt.elf, shape), relocation=request_by_section) as probes:
        rebuilt.call_for_checksum(shape, TIMES)
    probes.prove(hits=TIMES)
