"""An illegal uprobe is refused with the documented errno, and the attempt leaves nothing behind."""

import pytest

from harness.images.user_targets import FIRST_LIBRARY
from harness.landing.landing_judgment import Missed
from harness.userspace.refusals import (
    REFUSED_REQUESTS,
    RefusedRequest,
    expect_data_uprobe_accepted,
    expect_refused_by_tracefs,
)
from harness.userspace.uprobes_fixture import Uprobes


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-good-request", deep=("user-left-registered", "user-leaves-event"))
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(bad, id=bad.description.replace(" ", "-"), marks=[pytest.mark.deep] if index % 2 else [])
        for index, bad in enumerate(REFUSED_REQUESTS)
    ],
)
def test_user_refused(uprobes: Uprobes, bad: RefusedRequest) -> None:
    """Bad offsets, files and file systems are refused."""
    expect_refused_by_tracefs(uprobes, uprobes.target_file(FIRST_LIBRARY), bad)


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-writes-data", deep=("user-unarmed",))
@pytest.mark.parametrize("name", ["variables", pytest.param("constants", marks=pytest.mark.deep)])
def test_on_data(uprobes: Uprobes, name: str) -> None:
    """The kernel takes a uprobe on data. Writable data it never changes; in other data it writes a breakpoint."""
    with uprobes.runner_of_build() as process:
        expect_data_uprobe_accepted(uprobes, uprobes.target_file(FIRST_LIBRARY), f"pinpoint_one_{name}", process)


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_inside_a_user_instruction(uprobes: Uprobes) -> None:
    """Inside an instruction, arm64 refuses a misaligned offset (EINVAL); x86 does not check boundaries and accepts it.

    The breakpoint that x86 then writes changes the instruction into another one. Nothing calls the function.
    """
    file = uprobes.target_file(FIRST_LIBRARY)
    wanted = uprobes.guest.architecture.kprobe_traits.uprobe_mid_instruction_errno
    site = file.decodable_site_inside_instruction("pinpoint_one_leaf")
    with uprobes.runner_of_build() as process:
        with uprobes.on(file, [site], "module").record_pages_before(process) as run:
            run.record_pages(process)
        error = run.registered[0].errno
        if error != wanted:
            raise Missed(f"{site}: inside an instruction: errno {error}, not {wanted}")
        changed = run.offsets_differing_from_file(process)
        if changed != ([] if wanted else [file.offset_of_site(site)]):
            raise Missed(f"{site}: errno {error}, and memory changed at {changed}")
        run.prove_restored()
