"""A precompiled probe module is loaded safely though its target may be removed or replaced at any time.

The loader opens and reads the target's handle, loads the probe, and reads the handle again. The probe itself validates
the handle. Between any two steps the target may be removed, or replaced by the same build. The protocol does not depend
on whether an open section file pins the module.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.guest.guest import Guest
from harness.landing.freed_module_addresses import free_addresses_of_removed_modules
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning import doctored_modules, requirements_on_any_loader
from harness.pinning.hold_module_in_state import hold_initializer_at_gate
from harness.pinning.loader import PROBE, LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import (
    Loaders,
    expect_gone,
    expect_result,
    order_with_target_build_id,
    result_if_kernel_survives,
)
from harness.pinning.mutants import KEEPS
from harness.pinning.protocol.loader_actor import await_loader_at_rest
from harness.pinning.requirements_on_any_loader import IN_USE, TIMES


def _demand_no_pin(guest: Guest) -> None:
    """Skip if an open section file pins its module: the target then cannot be removed during a load."""
    if guest.traits.section_fd_pins:
        pytest.skip(f"{guest.name} has section_fd_pins: a target with an open token stays")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_probe_lands(layout: Layout, target: Target, probe_loaders: Loaders) -> None:
    """A probe loaded by section + offset, without a symbol look-up, is at the ELF's address and hit by each call."""
    requirements_on_any_loader.lands(probe_loaders, layout, target)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("swaps-handles")
def test_addresses_in_order(guest: Guest, target: Target, probe_loaders: Loaders) -> None:
    """The loader passes the addresses of two targets in the order in which they are named, in both orders."""
    with Target(guest, "pinpoint_second") as second:
        requirements_on_any_loader.passes_target_addresses_in_order(probe_loaders, target, second)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("holds-more")
def test_nothing_held_afterwards(target: Target, probe_loaders: Loaders) -> None:
    """After the loader has ended, no file of the target is open, and its reference count is 0."""
    requirements_on_any_loader.holds_nothing_afterwards(probe_loaders, target)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off", deep=("drops-keeps",))
@pytest.mark.own_loader("the choice of the system call is an option of it")
def test_loaded_from_memory(layout: Layout, target: Target, probe_loaders: Loaders) -> None:
    """init_module(2), with a buffer, its size and the parameters, loads a probe that lands; sysfs shows the parameters.

    This is the call of the letter of 2006.
    """
    site = layout.once_per_call_sites(Site("pinpoint_leaf", module=target.module))[1]
    _, leaf = layout.elf_and_symbol(site)

    def act() -> None:
        own = f"/sys/module/{PROBE}/parameters"
        seen = {name: probe_loaders.guest.read_text(f"{own}/{name}").strip() for name in wanted}
        if seen != wanted:
            raise Missed(f"the probe was loaded with the parameters {seen}, not {wanted}")
        target.call_for_checksum("leaf", TIMES)

    wanted = {
        "module_names": target.module,
        "module_addresses": str(target.struct_module_address),
        "module_build_ids": target.elf.build_id,
        "section_addresses": str(target.sections[leaf.section]),
        "keeps": "Y",
    }
    probe_loaders.load_and_prove_landing(
        layout, site, act, TIMES, LoaderOrder(load_from_memory=True, parameters=[KEEPS])
    )


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("drops-keeps")
def test_probe_that_keeps_its_target(target: Target, probe_loaders: Loaders) -> None:
    """With keeps=1 the probe itself pins its target, on every kernel: removal is EAGAIN until the probe is removed."""
    expect_result(
        probe_loaders.run(order_with_target_build_id(target, LoaderOrder(parameters=[KEEPS]))), LoaderExitStatus.DONE
    )
    for _ in range(2):
        removal = probe_loaders.delete_module(target.module)
        if not removal:
            target.load()
        if removal != IN_USE:
            raise Missed(f"removal of the target returned {removal or 'no error'}, not {IN_USE}")
    probe_loaders.guest.run("rmmod", PROBE).check()
    target.unload()
    target.load()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("closes-early", "skips-re-read")
def test_replaced_by_its_like(target: Target, probe_loaders: Loaders) -> None:
    """If the same build replaces the target at the same address, reading the token again detects it.

    Every check of the probe itself passes.
    """
    _demand_no_pin(probe_loaders.guest)
    requirements_on_any_loader.refuses_instance_that_is_gone(probe_loaders, target)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("no-build-id")
def test_replaced_by_another_build(target: Target, probe_loaders: Loaders) -> None:
    """If another build replaces the target at the same addresses, the probe compares build-ids and refuses."""
    _demand_no_pin(probe_loaders.guest)
    rebuilt = doctored_modules.copy_to_guest(
        probe_loaders.guest, "rebuilt", doctored_modules.with_another_build_id(target.elf)
    )
    with probe_loaders(order_with_target_build_id(target, LoaderOrder(gates=["load"]))) as loader:
        loader.await_gate("load")
        target.unload()
        free_addresses_of_removed_modules(target.guest)
        probe_loaders.guest.run("insmod", rebuilt).check()
        outcome = loader.continue_to_end()
    expect_result(outcome, LoaderExitStatus.LOAD, "ESTALE")
    expect_gone(probe_loaders.guest, PROBE)


@pytest.mark.requires("kprobes", "shared_loads")
@pytest.mark.mutants("other-call")
@pytest.mark.own_loader("the choice of the system call is an option of it")
def test_load_of_a_file_that_is_loading(probe_loaders: Loaders) -> None:
    """finit_module(2) waits for another load of the same file and returns its result; its own parameters are not read.

    A loader can therefore get success for a probe that was loaded for another loader's targets. To avoid this, a loader
    uses init_module(2), which shares no loads (idempotent_init_module(), kernel/module/main.c, 6.12).
    """
    gated, strange = (
        LoaderOrder(parameters=["gates=entered"]),
        LoaderOrder(parameters=["module_bases=no"], gates=["load"]),
    )
    for in_memory, wanted in ((False, (LoaderExitStatus.DONE, "")), (True, (LoaderExitStatus.LOAD, "EEXIST"))):
        with probe_loaders(replace(strange, load_from_memory=in_memory)) as second, probe_loaders(gated) as first:
            second.await_gate("load")
            with hold_initializer_at_gate(first, "entered"):
                second.continue_from_gate()
                assert await_loader_at_rest(probe_loaders.guest, second.pid) == "waits"
            expect_result(first.continue_to_end(), LoaderExitStatus.DONE)
            outcome = second.continue_to_end()
        probe_loaders.guest.run("rmmod", PROBE).check()
        expect_result(outcome, *wanted)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("handle-unchecked")
def test_removed_before_the_load(
    guest_or_fresh_for_mutant: Guest, probe_loaders_in: Callable[[Guest], Loaders]
) -> None:
    """The probe looks up a handle before it follows it, so the handle of a removed module is refused.

    Anything may be at that address by then.
    """
    _demand_no_pin(guest_or_fresh_for_mutant)
    target = Target(guest_or_fresh_for_mutant, "pinpoint_target")
    target.load()
    with probe_loaders_in(guest_or_fresh_for_mutant)(
        order_with_target_build_id(target, LoaderOrder(gates=["load"]))
    ) as loader:
        loader.await_gate("load")
        target.unload()
        outcome = result_if_kernel_survives(loader)
    expect_result(outcome, LoaderExitStatus.LOAD, "ESTALE")
    expect_gone(guest_or_fresh_for_mutant, PROBE)
