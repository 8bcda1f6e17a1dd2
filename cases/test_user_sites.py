"""A uprobe on symbol + offset of a program or a DSO lands in every process that maps the file, and is hit there.

The kernel takes an inode and an offset into the file, and resolves no symbol. The offset is computed from the file's
own tables: symbol - segment's address + segment's offset. It does not depend on where, how often or when the file is
mapped.
"""

from collections.abc import Callable

import pytest

from harness.images.user_targets import FIRST_LIBRARY, RUNNER, SECOND_LIBRARY
from harness.landing.landing_judgment import Missed
from harness.report.metrics_with_goals import Figure
from harness.userspace.uprobes_fixture import Uprobes

TIMES = 3
BOUNDARIES = 4


@pytest.mark.requires("uprobes")
@pytest.mark.mutants(
    "user-one-instruction-off",
    "user-stays",
    deep=(
        "user-writes-file",
        "user-keeps-copy",
        "user-same-address",
        "user-unarmed",
        "user-other-file",
        "user-stale-view",
        "user-registered-twice",
        "user-left-registered",
    ),
)
@pytest.mark.parametrize("way", ["tracefs", *(pytest.param(way, marks=pytest.mark.deep) for way in ("module", "perf"))])
def test_user_function(uprobes: Uprobes, way: str) -> None:
    """Probes on the entry and inner boundaries of a DSO's function land in two processes at two addresses.

    They are registered in each possible way.
    """
    file = uprobes.target_file(FIRST_LIBRARY)
    sites = file.once_per_call_sites(file.site("pinpoint_one_leaf"), BOUNDARIES)
    with uprobes.runners_at_two_addresses("pinpoint_one_leaf") as (first, second):
        with uprobes.on(file, sites, way).record_pages_before(first, second) as run:
            first.call("pinpoint_one_leaf", TIMES)
            second.call("pinpoint_one_leaf", TIMES + 1)
            run.record_pages(first, second, ask="")
        run.prove_landings({first.pid: TIMES, second.pid: TIMES + 1})
        run.prove_hit_only_in(first.pid, second.pid)
        run.prove_addresses_differ()
        run.prove_restored()
        run.prove_pages_private()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol", deep=("user-unarmed",))
@pytest.mark.parametrize("way", [*(pytest.param(way, marks=pytest.mark.deep) for way in ("tracefs", "module")), "perf"])
def test_user_return(uprobes: Uprobes, way: str) -> None:
    """A return probe is registered at the function's entry and reports each return with the function's address."""
    file = uprobes.target_file(SECOND_LIBRARY)
    with uprobes.runner_of_build() as process:
        with uprobes.on(file, [file.site("pinpoint_two_calls")], way, returns=True).record_pages_before(process) as run:
            process.call("pinpoint_two_calls", TIMES)
            run.record_pages(process, ask="")
        run.prove_landings(TIMES)
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol")
@pytest.mark.parametrize(
    "symbol", ["leaf", *(pytest.param(symbol, marks=pytest.mark.deep) for symbol in ("static", "calls"))]
)
def test_user_program(uprobes: Uprobes, symbol: str) -> None:
    """Probes land in functions of a position-independent program: exported, static, and calling through the PLT."""
    file = uprobes.target_file(RUNNER)
    sites = file.once_per_call_sites(file.site(f"pinpoint_runner_{symbol}"), 2)
    with uprobes.runner_of_build() as process:
        with uprobes.on(file, sites).record_pages_before(process) as run:
            process.call(f"pinpoint_runner_{symbol}", TIMES)
            run.record_pages(process, ask="")
        run.prove_landings(TIMES)
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol", deep=("user-unarmed",))
def test_calls_through_the_plt(uprobes: Uprobes) -> None:
    """A call through the PLT of the program, of another DSO and of the DSO itself runs the function that is probed."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as process:
        with uprobes.on(file, [file.site("pinpoint_one_leaf")], "module").record_pages_before(process) as run:
            process.call("pinpoint_runner_calls", TIMES)
            process.call("pinpoint_two_calls", TIMES)
            process.call("pinpoint_one_calls", TIMES)
            run.record_pages(process, ask="=")
        run.prove_landings(3 * TIMES)
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-mapping", deep=("user-unarmed",))
def test_twice_in_one_process(uprobes: Uprobes) -> None:
    """A DSO that one process has mapped twice, at two addresses (dlmopen()): the probe is in both, and both hit it."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as process:
        process.send_command(f"again {file.guest_path}")
        with uprobes.on(file, [file.site("pinpoint_one_leaf")], "module").record_pages_before(process) as run:
            process.call("pinpoint_one_leaf", TIMES)
            process.call("+pinpoint_one_leaf", TIMES)
            run.record_pages(process, ask="+")
        run.prove_landings(2 * TIMES)
        run.prove_site_mapping_count(process, 2)
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off", deep=("user-unarmed", "user-spares-it"))
def test_every_user_function(uprobes: Uprobes, figure: Callable[..., Figure]) -> None:
    """Probes on the entry and one inner boundary of every function that can be called by name land.

    All functions of a file are probed at once.
    """
    landings = []
    with uprobes.runner_of_build() as process:
        pointers = process.function_pointers()
        for file in map(uprobes.target_file, (FIRST_LIBRARY, SECOND_LIBRARY, RUNNER)):
            named = [each.name for each in file.functions_of_target_source if each.name in pointers]
            sites = [site for each in named for site in file.once_per_call_sites(file.site(each), 2)]
            with uprobes.on(file, sites, "module").record_pages_before(process) as run:
                process.send_command(f"each all {0 if uprobes.mutant.skips_event_during_hit else 1}")
                run.record_pages(process)
            run.prove_landings()
            run.prove_restored()
            landings += run.landings
    landed = [each for each in landings if not each.complaint and each.hits]
    figure("uprobe.sites", len(landings), "sites")
    figure("uprobe.landed", len(landed), "sites")
    figure("uprobe.unexplained", len(landings) - len(landed), "sites", goal="0")
    if len(landed) != len(landings):
        raise Missed(f"{len(landings) - len(landed)} of {len(landings)} sites were not hit")
