"""A probe is on the definition in its file; ld.so decides for each process which definition of a name runs."""

import pytest

from harness.core.errors import PinpointError
from harness.images.user_targets import ONE, PRELOADED, RUNNER, STATIC, STRIPPED
from harness.landing.site import Site
from harness.userspace.probe_run import Uprobes

TIMES = 3


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol")
def test_symbol_versions(uprobes: Uprobes) -> None:
    """Two versions of one name are two functions, and each probe is hit only by calls of its version."""
    file = uprobes.file(ONE)
    sites = [file.site(f"pinpoint_versioned_{version}") for version in (1, 2)]
    with uprobes.runner() as process:
        with uprobes.on(file, sites) as run:
            process.call("pinpoint_versioned@PINPOINT_1", TIMES)
            process.call("pinpoint_runner_versioned", 1)
            run.read_pages(process)
        run.prove()
        run.prove_counts(process.pid, [TIMES, 1])


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off")
def test_interposition(uprobes: Uprobes) -> None:
    """With LD_PRELOAD the probed definition in the DSO is not hit, because the preloaded definition runs instead."""
    probed, preloaded = uprobes.file(ONE), uprobes.file(PRELOADED)
    with uprobes.runner(LD_PRELOAD=preloaded.path) as process:
        for file, hits in ((probed, 0), (preloaded, TIMES)):
            with uprobes.on(file, [file.site("pinpoint_one_leaf")], "module") as run:
                process.call("pinpoint_runner_calls", TIMES)
                run.read_pages(process)
            run.prove(hits)


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off")
def test_ifunc(uprobes: Uprobes) -> None:
    """A probe on an IFUNC symbol is on its resolver, which runs when ld.so binds it; calls run the chosen function."""
    file = uprobes.file(ONE)
    sites = [file.site(f"pinpoint_chosen_{part}") for part in ("resolver", "first", "second")]
    with uprobes.on(file, sites, "module") as run, uprobes.runner(LD_BIND_NOW="1") as process:
        process.call("pinpoint_runner_chosen", TIMES)
        run.read_pages(process)
    run.prove()
    run.prove_counts(process.pid, [1, 0, TIMES])
    with pytest.raises(PinpointError, match="IFUNC"):
        file.offset(Site("pinpoint_chosen"))


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-next-symbol")
def test_static_pie(uprobes: Uprobes) -> None:
    """A probe lands in a static position-independent program, which relocates itself without ld.so."""
    file = uprobes.file(RUNNER, STATIC)
    with uprobes.runner(STATIC) as process:
        with uprobes.on(file, [file.site("pinpoint_runner_leaf")]).read_before(process) as run:
            process.call("pinpoint_runner_leaf", TIMES)
            run.read_pages(process, ask="")
        run.prove(TIMES)
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off")
@pytest.mark.parametrize("name", [ONE, RUNNER])
def test_stripped(uprobes: Uprobes, name: str) -> None:
    """A stripped file is probed by the symbols of its separate debug file, which is found by build-id."""
    file = uprobes.file(name, STRIPPED)
    assert ".symtab" not in file.elf.sections
    symbol = f"pinpoint_{'one' if name == ONE else 'runner'}_static"
    with uprobes.runner(STRIPPED) as process:
        with uprobes.on(file, [file.site(symbol)]).read_before(process) as run:
            process.call(symbol, TIMES)
            run.read_pages(process, ask="")
        run.prove(TIMES)
        run.prove_restored()
