"""A kprobe does not hold the module it stands in: what becomes of it, and of one that comes too late."""

import errno

import pytest

from harness.guest.guest import Guest
from harness.landing.checks.refusals import expect_refusal
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.pinning.across import cross, expect_errnos, race, settle
from harness.pinning.loader_fixture import Loaders
from harness.pinning.module_states import going
from harness.pinning.mutants import named

# A mutant shows in any round.
ROUNDS, FEW = 60, 4


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("only-reported", "probes-again")
def test_target_removed_under_a_kprobe(layout: Layout, target: Target, kprobes: Kprobes, mutant: str) -> None:
    """It is GONE in the list, unregisters cleanly, and is not hit by the next module at its very address."""
    site = layout.straight(target.site("leaf"))[2]
    settle(target, site)
    crossing = cross(kprobes, target, site, named(mutant))
    assert not crossing.moved, "the module's next life stands elsewhere, so that nothing could have hit it"
    crossing.prove()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_new_probe_at_the_site_of_a_gone_one(
    layout: Layout, target: Target, kprobes: Kprobes, loaders: Loaders
) -> None:
    """A probe at the address of a GONE one works, though the kernel keeps both as one (register_aggr_kprobe(), 6.1)."""
    site = layout.straight(target.site("leaf"))[2]
    settle(target, site)
    with kprobes.on(site) as gone:
        target.unload()
        target.load()
        loaders.prove_landing(layout, site, lambda: target.call("leaf", 3), hits=3)
    assert gone.reports[0].hits == 0


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_registered_while_going(guest: Guest, kprobes: Kprobes) -> None:
    """Between GOING and its end a module's symbols are still known, and a probe on one is ENOENT."""
    with going(guest):
        expect_refusal(kprobes, "pinpoint_pins:pinpoint_needed", wanted=errno.ENOENT)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-anyway")
def test_registered_while_the_target_comes_and_goes(guest: Guest, kprobes: Kprobes, mutant: str) -> None:
    """Registration that races with removal succeeds, or is ENOENT or EINVAL, and nothing else."""
    spec = kprobes.mutant.bad_spec("pinpoint_target:pinpoint_leaf")
    expect_errnos(race(guest, "pinpoint_target", spec, FEW if mutant else ROUNDS), (0, errno.ENOENT, errno.EINVAL))
