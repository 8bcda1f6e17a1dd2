"""If an open section file pins its module, as up to 2.6.22, the letter of 2006 is right, within these limits."""

import pytest

from harness.landing.target import Target
from harness.pinning import requirements_on_any_loader
from harness.pinning.hold_module_in_state import hold_initializer_at_gate
from harness.pinning.loader import PROBE, Loader, LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import Loaders, expect_result
from harness.pinning.requirements_on_any_loader import expect_removal_refused


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("closes-early")
def test_held_until_the_load(target: Target, probe_loaders: Loaders) -> None:
    """Between open and load, removal of the target is refused, so the probe is loaded for the opened instance."""
    requirements_on_any_loader.pins_target_until_load(probe_loaders, target)


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("closes-early")
@pytest.mark.own_loader("it is killed by its process id, and a foreign loader may be several processes")
def test_loader_killed_in_the_initializer(target: Target, probe_loaders: Loaders) -> None:
    """SIGKILL of the loader releases nothing until the initializer returns.

    The loader's task is in the kernel and keeps its open files.
    """
    with probe_loaders(LoaderOrder(targets=[target.module], parameters=["gates=entered"])) as loader:
        with hold_initializer_at_gate(loader, "entered"):
            probe_loaders.guest.run("kill", "-KILL", str(loader.pid)).check()
            expect_removal_refused(probe_loaders, target)
        assert loader.continue_to_end().status is LoaderExitStatus.KILLED
    probe_loaders.guest.run("rmmod", PROBE).check()


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("accompanied")
@pytest.mark.own_loader("its second task closes a token at a gate")
def test_second_task_breaks_the_pin(target: Target, probe_loaders: Loaders) -> None:
    """If a task that shares the loader's open files closes the token, the target can be removed; the probe refuses."""
    order = LoaderOrder(targets=[target.module], parameters=["gates=entered"], mutant="betrayed")
    with probe_loaders(order) as loader:
        loader.await_gate("betray")
        with hold_initializer_at_gate(loader, "entered"):
            expect_removal_refused(probe_loaders, target)
            _betray(loader)
            removal = probe_loaders.delete_module(target.module)
        outcome = loader.continue_to_end()
    if not removal:
        target.load()
    expect_result(outcome, LoaderExitStatus.LOAD, "ESTALE")


def _betray(loader: Loader) -> None:
    """Let the second task continue until it reports that it has closed its file."""
    loader.continue_from_gate()
    while output := loader.next_line_or_none():
        if output.step == "betray":
            return


@pytest.mark.requires("kprobes", "section_fd_pins")
@pytest.mark.mutants("closes-early")
@pytest.mark.own_loader("holding the tokens until the probe is removed is an option of it")
def test_held_until_the_probe_is_removed(target: Target, probe_loaders: Loaders) -> None:
    """A loader that keeps its tokens until the probe is removed pins the target for exactly that time."""
    with probe_loaders(LoaderOrder(targets=[target.module], gates=["hold"], hold_until_removed=True)) as loader:
        loader.await_gate("hold")
        loader.continue_from_gate()
        expect_removal_refused(probe_loaders, target)
        probe_loaders.guest.run("rmmod", PROBE).check()
        expect_result(loader.continue_to_end(), LoaderExitStatus.DONE)
    target.unload()
    target.load()
