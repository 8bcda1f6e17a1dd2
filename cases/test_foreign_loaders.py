"""Each of three loaders that are not ours breaks exactly the expected claims, and the careful one breaks none.

Each is run as `--loader` runs it (docs/foreign-loaders.md). Where open section files pin, the claim is that the target
cannot be removed during the load; elsewhere, that the loader refuses an instance that was replaced.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import pytest

from harness.core import paths
from harness.guest.guest import Guest
from harness.images import systemtap
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.target import Target
from harness.matrix.verify import guest_chroot_of_debian_packages
from harness.pinning import requirements_on_any_loader
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import mutant_or_honest

SCRIPTS = paths.CASES / "foreign_loaders"
CAREFUL, READS_ONCE, INSMOD = str(SCRIPTS / "careful.sh"), str(SCRIPTS / "reads_once.sh"), "insmod"
STAPRUN = str(SCRIPTS / "staprun.sh")

pytestmark = pytest.mark.requires("kprobes")


def claims(loaders: Loaders, layout: Layout, target: Target) -> Mapping[str, Callable[[], None]]:
    """Return the claims that a foreign loader is tried on, by name."""

    def in_order() -> None:
        with Target(loaders.guest, "pinpoint_second") as second:
            requirements_on_any_loader.passes_target_addresses_in_order(loaders, target, second)

    pins = loaders.guest.traits.section_fd_pins
    gone = (
        requirements_on_any_loader.pins_target_until_load
        if pins
        else requirements_on_any_loader.refuses_instance_that_is_gone
    )
    return {
        "lands": lambda: requirements_on_any_loader.lands(loaders, layout, target),
        "in order": in_order,
        "nothing held": lambda: requirements_on_any_loader.holds_nothing_afterwards(loaders, target),
        "gone": lambda: gone(loaders, target),
        "absent": lambda: requirements_on_any_loader.refuses_absent_target(loaders),
    }


def prove(guest: Guest, layout: Layout, target: Target, mutant: str, loader: str, broken: Mapping[str, str]) -> None:
    """Raise Missed unless the loader breaks exactly these claims, each with a failure that matches the expression."""
    defect = mutant_or_honest(mutant)
    command = ForeignLoaderProgramAndArguments.parse_command_line(CAREFUL if defect.uses_careful_loader else loader)
    wrong = []
    for name in claims(Loaders(guest), layout, target):
        with Loaders(guest, defect, command) as loaders:
            failure = ""
            try:
                claims(loaders, layout, target)[name]()
            except Missed as missed:
                failure = str(missed).splitlines()[0]
        if not re.search(broken.get(name, "^$"), failure):
            wrong.append(f"{name}: {failure or 'held'}, not {broken.get(name, 'held')}")
    if wrong:
        raise Missed(f"{command.shown}: {'; '.join(wrong)}")


@pytest.mark.mutants("one-instruction-off")
def test_careful_loader(guest: Guest, layout: Layout, target: Target, mutant: str) -> None:
    """A shell script of 20 lines that follows the protocol holds every claim."""
    prove(guest, layout, target, mutant, CAREFUL, {})


@pytest.mark.deep
@pytest.mark.mutants("careful-loader")
def test_loader_that_reads_once(guest: Guest, layout: Layout, target: Target, mutant: str) -> None:
    """A loader that holds no file of its target accepts an instance that is gone, and breaks no other claim."""
    removed = f"{target.module} was removed"
    accepted = "exited with 0; in the load it held nothing, not a failure"
    wanted = removed if guest.traits.section_fd_pins else accepted
    prove(guest, layout, target, mutant, READS_ONCE, {"gone": wanted})


@pytest.mark.deep
@pytest.mark.mutants("careful-loader")
def test_insmod(guest: Guest, layout: Layout, target: Target, mutant: str) -> None:
    """busybox's insmod passes no addresses, so the probe refuses each load that has a target (EINVAL)."""
    refused = "`insmod` exited with 22: insmod: can't insert .*: Invalid argument"
    passed_none = "`insmod` passed module_addresses=nothing, not 0x"
    prove(
        guest,
        layout,
        target,
        mutant,
        INSMOD,
        {
            "lands": refused,
            "in order": passed_none,
            "nothing held": refused,
            "gone": passed_none,
            "absent": f"the loader loads no probe even for a target that is there: {refused}",
        },
    )


@pytest.mark.full
@pytest.mark.mutants("careful-loader")
def test_staprun(guest_with_packages: Callable[..., AbstractContextManager[Guest]], mutant: str) -> None:
    """systemtap's staprun passes no addresses and holds nothing during a load; the probe refuses each load (EINVAL).

    staprun 5.1 opens section files only after it has loaded its module (docs/verify.md).
    """
    with guest_with_packages(systemtap.RUNTIME_PACKAGE, suite=systemtap.SUITE) as guest:
        guest_chroot_of_debian_packages.mount_kernel_filesystems(guest)
        try:
            with Target(guest, "pinpoint_target") as target:
                refused = "`staprun.sh` exited with 1: .*Couldn't insert module .*: Invalid"
                passed_none = "`staprun.sh` passed module_addresses=nothing, not 0x"
                broken = {
                    "lands": refused,
                    "in order": passed_none,
                    "nothing held": refused,
                    "gone": passed_none,
                    "absent": f"the loader loads no probe even for a target that is there: {refused}",
                }
                prove(guest, Layout(guest, [target]), target, mutant, STAPRUN, broken)
        finally:
            guest_chroot_of_debian_packages.unmount_kernel_filesystems(guest)
