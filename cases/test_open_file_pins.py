"""If an open section file pins its module, as up to 2.6.22, the letter of 2006 is right, within these limits."""

import pytest

from harness.landing.target import Target
from harness.pinning import loader_claims
from harness.pinning.hold_module_in_state import initializer_at_gate
from harness.pinning.loader import PROBE, Loader, LoaderOrder, LoaderStatus
from harness.pinning.loader_claims import expect_in_use
from harness.pinning.loader_fixture import Loaders, expect_result


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("closes-early")
def test_held_until_the_load(target: Target, loaders: Loaders) -> None:
    """Between open and load, removal of the target is refused, so the probe is loaded for the opened instance."""
    loader_claims.keeps_target_from_removal(loaders, target)


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("closes-early")
@pytest.mark.own_loader("it is killed by its process id, and a foreign loader may be several processes")
def test_loader_killed_in_the_initializer(target: Target, loaders: Loaders) -> None:
    """SIGKILL of the loader releases nothing until the initializer returns.

    The loader's task is in the kernel and keeps its open files.
    """
    with loaders(LoaderOrder(targets=[target.module], parameters=["gates=entered"])) as loader:
        with initializer_at_gate(loader, "entered"):
            loaders.guest.run("kill", "-KILL", str(loader.pid)).check()
            expect_in_use(loaders, target)
        assert loader.finish().status is LoaderStatus.KILLED
    loaders.guest.run("rmmod", PROBE).check()


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("accompanied")
@pytest.mark.own_loader("its second task closes a token at a gate")
def test_second_task_breaks_the_pin(target: Target, loaders: Loaders) -> None:
    """If a task that shares the loader's open files closes the token, the target can be removed; the probe refuses."""
    order = LoaderOrder(targets=[target.module], parameters=["gates=entered"], mutant="betrayed")
    with loaders(order) as loader:
        loader.await_gate("betray")
        with initializer_at_gate(loader, "entered"):
            expect_in_use(loaders, target)
            _betray(loader)
            removal = loaders.delete_module(target.module)
        outcome = loader.finish()
    if not removal:
        target.load()
    expect_result(outcome, LoaderStatus.LOAD, "ESTALE")


def _betray(loader: Loader) -> None:
    """Let the second task continue until it reports that it has closed its file."""
    loader.continue_from_gate()
    while output := loader.next_line():
        if output.step == "betray":
            return


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("closes-early")
@pytest.mark.own_loader("holding the tokens until the probe is removed is an option of it")
def test_held_until_the_probe_is_removed(target: Target, loaders: Loaders) -> None:
    """A loader that keeps its tokens until the probe is removed pins the target for exactly that time."""
    with loaders(LoaderOrder(targets=[target.module], gates=["hold"], hold_until_removed=True)) as loader:
        loader.await_gate("hold")
        loader.continue_from_gate()
        expect_in_use(loaders, target)
        loaders.guest.run("rmmod", PROBE).check()
        expect_result(loader.finish(), LoaderStatus.DONE)
    target.unload()
    target.load()
