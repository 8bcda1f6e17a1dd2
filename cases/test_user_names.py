"""A probe is on the definition in its file; ld.so decides for each process which definition of a name runs."""

import pytest

from harness.core.errors import PinpointError
from harness.images.user_targets import FIRST_LIBRARY, PLAIN, PRELOADED, RUNNER, SECOND_LIBRARY, STATIC, STRIPPED
from harness.landing.site import Site
from harness.userspace.debug_files import DebugFileLookup
from harness.userspace.dynamic_linker_answers import prove_linker_answers
from harness.userspace.uprobes_fixture import Uprobes

TIMES = 3


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-base-for-bias", deep=("user-next-symbol",))
def test_the_process_itself_agrees(uprobes: Uprobes) -> None:
    """What ld.so answers in the process, by r_debug and dladdr(), agrees with the file's tables and the mappings."""
    for variant in (PLAIN, "based"):
        with uprobes.runner_of_build(variant) as process:
            for name in (FIRST_LIBRARY, SECOND_LIBRARY, RUNNER):
                file = uprobes.target_file(name, variant)
                exported = [each.name for each in file.functions_of_target_source if each.name.endswith("_leaf")]
                assert exported
                prove_linker_answers(uprobes, process, file, file.site(exported[0]))


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol")
def test_symbol_versions(uprobes: Uprobes) -> None:
    """Two versions of one name are two functions, and each probe is hit only by calls of its version."""
    file = uprobes.target_file(FIRST_LIBRARY)
    sites = [file.site(f"pinpoint_versioned_{version}") for version in (1, 2)]
    with uprobes.runner_of_build() as process:
        with uprobes.on(file, sites) as run:
            process.call("pinpoint_versioned@PINPOINT_1", TIMES)
            process.call("pinpoint_runner_versioned", 1)
            run.record_pages(process)
        run.prove_landings()
        run.prove_hit_counts(process.pid, [TIMES, 1])


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off")
def test_interposition(uprobes: Uprobes) -> None:
    """With LD_PRELOAD the probed definition in the DSO is not hit, because the preloaded definition runs instead."""
    probed, preloaded = uprobes.target_file(FIRST_LIBRARY), uprobes.target_file(PRELOADED)
    with uprobes.runner_of_build(LD_PRELOAD=preloaded.guest_path) as process:
        for file, hits in ((probed, 0), (preloaded, TIMES)):
            with uprobes.on(file, [file.site("pinpoint_one_leaf")], "module") as run:
                process.call("pinpoint_runner_calls", TIMES)
                run.record_pages(process)
            run.prove_landings(hits)


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off")
def test_ifunc(uprobes: Uprobes) -> None:
    """A probe on an IFUNC symbol is on its resolver, which runs when ld.so binds it; calls run the chosen function."""
    file = uprobes.target_file(FIRST_LIBRARY)
    if not any(symbol.kind == "ifunc" for symbol in file.elf.symbols):
        pytest.skip(f"the C library of {uprobes.guest.name} has no IFUNC")
    sites = [file.site(f"pinpoint_chosen_{part}") for part in ("resolver", "first", "second")]
    with uprobes.on(file, sites, "module") as run, uprobes.runner_of_build(LD_BIND_NOW="1") as process:
        process.call("pinpoint_runner_chosen", TIMES)
        run.record_pages(process)
    run.prove_landings()
    run.prove_hit_counts(process.pid, [1, 0, TIMES])
    with pytest.raises(PinpointError, match="IFUNC"):
        file.offset_of_site(Site("pinpoint_chosen"))


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol")
def test_static_pie(uprobes: Uprobes) -> None:
    """A probe lands in a static position-independent program, which relocates itself without ld.so."""
    file = uprobes.target_file(RUNNER, STATIC)
    with uprobes.runner_of_build(STATIC) as process:
        with uprobes.on(file, [file.site("pinpoint_runner_leaf")]).record_pages_before(process) as run:
            process.call("pinpoint_runner_leaf", TIMES)
            run.record_pages(process, ask="")
        run.prove_landings(TIMES)
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-other-build", deep=("user-one-instruction-off",))
@pytest.mark.parametrize(
    "symbols_by",
    [DebugFileLookup.BUILD_ID, pytest.param(DebugFileLookup.DEBUGLINK, marks=pytest.mark.deep)],
    ids=lambda by: by.value,
)
@pytest.mark.parametrize("name", [FIRST_LIBRARY, pytest.param(RUNNER, marks=pytest.mark.deep)])
def test_stripped(uprobes: Uprobes, name: str, symbols_by: DebugFileLookup) -> None:
    """The symbols of a stripped file come from a separate file, found by build-id or by .gnu_debuglink."""
    file = uprobes.target_file(name, STRIPPED, symbols_by)
    assert ".symtab" not in file.elf.sections_by_name
    assert (".build-id" if symbols_by is DebugFileLookup.BUILD_ID else ".debug") in file.symbol_file.path.parts
    symbol = f"pinpoint_{'one' if name == FIRST_LIBRARY else 'runner'}_static"
    with uprobes.runner_of_build(STRIPPED) as process:
        with uprobes.on(file, [file.site(symbol)]).record_pages_before(process) as run:
            process.call(symbol, TIMES)
            run.record_pages(process, ask="")
        run.prove_landings(TIMES)
        run.prove_restored()
