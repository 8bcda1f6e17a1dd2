"""A kprobe does not pin the module that it probes: it becomes GONE with the module, and a late one is refused."""

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.guest.guest import Guest
from harness.landing.checks.optimized_probes import jump_size, optimizable_sites
from harness.landing.checks.probe_flags import optimization_off, select_sites_apart
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.pinning.hold_module_in_state import accepted_entry_spec, module_being_removed
from harness.pinning.kprobes_across_module_reload import (
    probe_across_removal,
    race_registration,
    register_after_racing_removals,
    register_second_probe_at_gone_one,
    warm_up_allocations,
)
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import mutant_or_honest
from harness.verdict.cell_verdict_enum import end_as_known_fail
from harness.verdict.complaints import read_sorted_complaints
from harness.verdict.oops_of_second_probe import demand_oops_of_second_probe

# A mutant is caught in any round, so it needs only a few.
ROUNDS, FEW = 60, 4
# In each round, the optimizer's delay of some ticks is missed or not.
REMOVALS = 20
TIMES = 3
FENCE_SECONDS = 60.0
STAYS = (
    "kernel/kprobes.c:794 (6.1): kill_optimized_kprobe() takes an unused probe off the list of jumps to remove before "
    "line 805 looks for it there, so that it stays in the table and no probe can be registered at its address"
)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("probes-again", deep=("only-reported",))
def test_target_removed_under_a_kprobe(layout: Layout, target: Target, kprobes: Kprobes, mutant: str) -> None:
    """The kprobe is listed as GONE, unregisters cleanly, and is not hit by a new module at the same address."""
    site = layout.once_per_call_sites(target.shape_site("leaf"))[2]
    warm_up_allocations(layout, target, site)
    crossing = probe_across_removal(kprobes, target, site, mutant_or_honest(mutant))
    assert not crossing.target_moved, "the module's next life stands elsewhere, so that nothing could have hit it"
    crossing.prove()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_new_probe_at_the_site_of_a_gone_one(
    layout: Layout,
    target: Target,
    kprobes: Kprobes,
    probe_loaders: Loaders,
    fresh: Callable[..., AbstractContextManager[Guest]],
) -> None:
    """A new probe at the address of a GONE probe works, though the kernel aggregates the two.

    register_aggr_kprobe(), kernel/kprobes.c, 6.1. A kernel whose recipe documents the defect kills the task that
    registers the new probe, by an oops in can_optimize().
    """
    cause = layout.guest.image.recipe.defects.gone_probe_has_no_copy
    if cause:
        with fresh(may_die=True) as other:
            own = Target(other, target.module)
            own.load()  # It cannot be unloaded after the oops.
            second = register_second_probe_at_gone_one(own, "leaf", Loaders(other, probe_loaders.mutant))
        demand_oops_of_second_probe(second, other.image.recipe.boot_noise)
        end_as_known_fail(cause)
    site = layout.once_per_call_sites(target.shape_site("leaf"))[2]
    warm_up_allocations(layout, target, site)
    address = layout.probe_address(site)
    with kprobes.on(site) as gone:
        target.unload()
        target.load()
        assert layout.probe_address(site) == address, "the module's next life stands elsewhere, where no probe is gone"
        probe_loaders.load_and_prove_landing(layout, site, lambda: target.call_for_checksum("leaf", 3), hits=3)
    assert gone.final_reports[0].hits == 0


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_registered_while_going(guest: Guest, kprobes: Kprobes) -> None:
    """A probe on a symbol of a module that is GOING is ENOENT, though kallsyms still lists the symbol."""
    with module_being_removed(guest):
        expect_specs_refused(kprobes, accepted_entry_spec(guest), wanted=errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_registered_while_the_target_comes_and_goes(guest: Guest, kprobes: Kprobes, mutant: str) -> None:
    """A registration that races with removal of the target succeeds and lands, or is ENOENT or EINVAL.

    Kernels keep a jump that is removed together with its module; test_jump_removed_with_the_target is about that.
    """
    with Target(guest, "pinpoint_target") as target:
        entry = Layout(guest, [target]).entry_site(target.shape_site("leaf"))
    spec = kprobes.mutant.replace_refused_spec(entry.spec)
    with optimization_off(guest):
        raced = race_registration(guest, "pinpoint_target", "leaf", spec, FEW if mutant else ROUNDS)
    raced.prove((0, errno.ENOENT, errno.EINVAL))


@pytest.mark.deep
@pytest.mark.requires("kprobes", "optimized_kprobes", "optimized_module_kprobes")
@pytest.mark.mutants("only-reported")
def test_jump_removed_with_the_target(
    guest: Guest,
    fresh: Callable[..., AbstractContextManager[Guest]],
    kprobes_in: Callable[..., Kprobes],
    mutant: str,
) -> None:
    """If a jump and the module below it are removed at the same time, a new probe there is registered and lands.

    A kernel with the documented defect refuses every new probe there with EINVAL, and the first with a WARNING
    (register_aggr_kprobe(), reuse_unused_kprobe(), kernel/kprobes.c, 6.1).
    """
    with nullcontext(guest) if mutant else fresh(may_die=True) as other, Target(other, "pinpoint_target") as target:
        layout = Layout(other, [target])
        line = layout.once_per_call_sites(target.shape_site("carries"))
        kprobes = kprobes_in(other, target)
        site = optimizable_sites(kprobes, select_sites_apart(line, jump_size(layout)))[0]
        other.read_output_since_fence(other.scaled_deadline(FENCE_SECONDS))
        refused = register_after_racing_removals(layout, target, site, 0 if mutant else REMOVALS)
        with kprobes.on(site) as probes:
            target.call_for_checksum("carries", TIMES)
        printed = other.read_output_since_fence(other.scaled_deadline(FENCE_SECONDS))
        complaints = read_sorted_complaints(printed, other.image.recipe.boot_noise).alarming
        # The last removal may be the one that leaves the probe in the table; then only this last probe is refused.
        errnos = {error for error in (refused, probes.last_read_reports[0].errno) if error}
        if not errnos and not complaints:
            # Read while the guest is there: a kernel without the defect, or removals that did not race.
            probes.prove(hits=TIMES)
            probes.prove_gone()
    places = [each.source_place.partition(":")[0] for each in complaints if "register_kprobe+0x" in each.headline]
    stays = probes.last_read_reports[0].errno == errno.EINVAL and errnos == {errno.EINVAL}
    if stays and len(complaints) == 1 and places == ["kernel/kprobes.c"]:
        end_as_known_fail(STAYS)
    if errnos or complaints:
        found = "; ".join([*(errno.errorcode[error] for error in sorted(errnos)), *map(str, complaints)])
        raise Missed(f"{site}, a new probe where a jump was removed together with its module: {found}")
