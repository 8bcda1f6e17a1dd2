"""What no uprobe may be put on is refused with the documented errno, and nothing is left of the attempt."""

import pytest

from harness.images.user_targets import ONE
from harness.landing.landing import Missed
from harness.userspace.probe_run import Uprobes
from harness.userspace.refusals import BAD, Bad, expect_refused


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-good-request")
@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.what.replace(" ", "-")) for bad in BAD])
def test_user_refused(uprobes: Uprobes, bad: Bad) -> None:
    """Offsets, files and file systems that the kernel refuses; writable data it takes, and never puts a probe there."""
    expect_refused(uprobes, uprobes.file(ONE), bad)


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_inside_a_user_instruction(uprobes: Uprobes) -> None:
    """Inside an instruction: arm64 refuses what is not aligned (EINVAL), x86 knows no boundaries and takes it.

    What x86 takes is a breakpoint that makes another instruction of the one it stands in. Nothing calls the function.
    """
    file = uprobes.file(ONE)
    wanted = uprobes.guest.architecture.kprobes.uprobe_mid_instruction
    site = file.decodable_inside("pinpoint_one_leaf")
    with uprobes.runner() as process:
        with uprobes.on(file, [site], "module").before(process) as run:
            run.look(process)
        told = run.registered[0].errno
        if told != wanted:
            raise Missed(f"{site}: inside an instruction: errno {told}, not {wanted}")
        changed = run.changed_places(process)
        if changed != ([] if wanted else [file.offset(site)]):
            raise Missed(f"{site}: errno {told}, and memory changed at {changed}")
        run.prove_restored()
