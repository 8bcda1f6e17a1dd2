"""A kprobe does not pin the module that it probes: it becomes GONE with the module, and a late one is refused."""

import errno

import pytest

from harness.guest.guest import Guest
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.pinning.hold_module_in_state import module_being_removed
from harness.pinning.kprobes_across_module_reload import probe_across_removal, race_registration, warm_up_allocations
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import mutant_or_honest

# A mutant is caught in any round, so it needs only a few.
ROUNDS, FEW = 60, 4


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("probes-again", deep=("only-reported",))
def test_target_removed_under_a_kprobe(layout: Layout, target: Target, kprobes: Kprobes, mutant: str) -> None:
    """The kprobe is listed as GONE, unregisters cleanly, and is not hit by a new module at the same address."""
    site = layout.once_per_call_sites(target.shape_site("leaf"))[2]
    warm_up_allocations(target, site)
    crossing = probe_across_removal(kprobes, target, site, mutant_or_honest(mutant))
    assert not crossing.target_moved, "the module's next life stands elsewhere, so that nothing could have hit it"
    crossing.prove()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_new_probe_at_the_site_of_a_gone_one(
    layout: Layout, target: Target, kprobes: Kprobes, probe_loaders: Loaders
) -> None:
    """A new probe at the address of a GONE probe works, though the kernel aggregates the two.

    register_aggr_kprobe(), kernel/kprobes.c, 6.1.
    """
    site = layout.once_per_call_sites(target.shape_site("leaf"))[2]
    warm_up_allocations(target, site)
    with kprobes.on(site) as gone:
        target.unload()
        target.load()
        probe_loaders.load_and_prove_landing(layout, site, lambda: target.call_for_checksum("leaf", 3), hits=3)
    assert gone.final_reports[0].hits == 0


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_registered_while_going(guest: Guest, kprobes: Kprobes) -> None:
    """A probe on a symbol of a module that is GOING is ENOENT, though kallsyms still lists the symbol."""
    with module_being_removed(guest):
        expect_specs_refused(kprobes, "pinpoint_pins:pinpoint_needed", wanted=errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_registered_while_the_target_comes_and_goes(guest: Guest, kprobes: Kprobes, mutant: str) -> None:
    """A registration that races with removal of the target succeeds and lands, or is ENOENT or EINVAL."""
    spec = kprobes.mutant.replace_refused_spec("pinpoint_target:pinpoint_leaf")
    raced = race_registration(guest, "pinpoint_target", "leaf", spec, FEW if mutant else ROUNDS)
    raced.prove((0, errno.ENOENT, errno.EINVAL))
