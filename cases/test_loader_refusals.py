"""The loader, the probe or the kernel refuses each bad load with the right errno; the guest lives and no probe stays.

The errnos are those of kernel/module and kernel/params.c in 6.1. A status is the loader's; it names the failed step.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning import doctored_modules, requirements_on_any_loader
from harness.pinning.hold_module_in_state import TARGET as GOING_TARGET
from harness.pinning.hold_module_in_state import hold_loaded_copies, module_being_removed
from harness.pinning.loader import PROBE, LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import Loaders, expect_result, order_with_target_build_id
from harness.report.metrics_with_goals import Figure

Fresh = Callable[..., AbstractContextManager[Guest]]

SOMEBODY = 1000
PAGE = 4096
MANY, FEW = 100, 3


@pytest.mark.mutants("one-of-many", deep=("loads-anyway", "wrong-errno"))
def test_module_without_sections(probe_loaders: Loaders) -> None:
    """A module that is not loaded or is built in has no handle: ENOENT at the open."""
    requirements_on_any_loader.refuses_absent_target(probe_loaders)


@pytest.mark.mutants("wrong-errno", deep=("loads-anyway",))
def test_hidden_addresses(target: Target, probe_loaders: Loaders) -> None:
    """With kptr_restrict=2 even root reads zeros, and the loader refuses them instead of using them as an address."""
    probe_loaders.demand_control_load()
    probe_loaders.guest.run_script("echo 2 >/proc/sys/kernel/kptr_restrict").check()
    try:
        probe_loaders.expect_refusal(LoaderOrder(targets=[target.module]), LoaderExitStatus.ZERO, "EACCES")
    finally:
        probe_loaders.guest.run_script("echo 0 >/proc/sys/kernel/kptr_restrict").check()


@pytest.mark.mutants("loads-anyway", deep=("one-of-many", "wrong-errno"))
@pytest.mark.own_loader("becoming another user is an option of it")
def test_not_root(target: Target, probe_loaders: Loaders) -> None:
    """An ordinary user gets EACCES from section files, which are 0400, and EPERM from the load.

    The load needs CAP_SYS_MODULE; it is tried without a target.
    """
    probe_loaders.expect_refusal(
        LoaderOrder(targets=[target.module], user_id=SOMEBODY), LoaderExitStatus.OPEN, "EACCES"
    )
    probe_loaders.expect_refusal(LoaderOrder(user_id=SOMEBODY), LoaderExitStatus.LOAD, "EPERM")


@pytest.mark.mutants("wrong-errno", deep=("loads-anyway",))
@pytest.mark.own_loader("it is stopped between the open and the first read")
def test_removed_between_open_and_read(target: Target, probe_loaders: Loaders) -> None:
    """A token whose module was removed before the first read is ENODEV, even if the module is loaded again."""
    if probe_loaders.guest.traits.section_fd_pins:
        pytest.skip(f"{probe_loaders.guest.name} has section_fd_pins: a target with an open token stays")
    with probe_loaders(LoaderOrder(targets=[target.module], gates=["read"])) as loader:
        loader.await_gate("read")
        target.unload()
        target.load()
        expect_result(loader.continue_to_end(), LoaderExitStatus.READ, "ENODEV")


@pytest.mark.mutants("loads-anyway", deep=("wrong-errno",))
def test_going_target(guest: Guest, probe_loaders: Loaders) -> None:
    """The handle of a module that is GOING can still be read, but the probe gets no reference to it: ESTALE.

    If an open section file takes a reference, the open is refused instead.
    """
    pins = guest.traits.section_fd_pins
    probe_loaders.demand_control_load()
    with module_being_removed(guest):
        outcome = probe_loaders.run(LoaderOrder(targets=[GOING_TARGET]))
        removal = probe_loaders.delete_module(GOING_TARGET)
    expect_result(outcome, *((LoaderExitStatus.OPEN, "ENODEV") if pins else (LoaderExitStatus.LOAD, "ESTALE")))
    assert removal == "EBUSY"


@pytest.mark.mutants("one-of-many", deep=("loads-anyway", "wrong-errno"))
@pytest.mark.own_loader("the claim is about the probe, which gets wrong values that no loader passes")
def test_number_that_is_no_handle(target: Target, probe_loaders: Loaders) -> None:
    """Wrong numbers from a broken loader are refused.

    These are another address in the module, data in it, an address outside of it, zero, and a list that is too short.
    Each base is right, so that the look-up itself has to refuse.
    """
    guest, base = probe_loaders.guest, base_of(probe_loaders.guest, target.module)
    for number in (target.struct_module_address + 8, target.sections[".data"], 8):
        probe_loaders.expect_refusal(
            LoaderOrder(parameters=_lists(target.module, number, base)), LoaderExitStatus.LOAD, "ESTALE"
        )
    probe_loaders.expect_refusal(
        LoaderOrder(parameters=_lists(target.module, 0, base)), LoaderExitStatus.LOAD, "EINVAL"
    )
    short = _lists(target.module, target.struct_module_address, base)[:2]
    probe_loaders.expect_refusal(LoaderOrder(parameters=short), LoaderExitStatus.LOAD, "EINVAL")
    assert base_of(guest, target.module) == base


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("no-base", deep=("wrong-errno",))
@pytest.mark.own_loader("the claim is about the probe, which gets wrong values that no loader passes")
def test_wrong_base(target: Target, probe_loaders: Loaders) -> None:
    """A right handle and name with another base is refused: by base alone, because no build-id is given."""
    wrong = base_of(probe_loaders.guest, target.module) + PAGE
    probe_loaders.expect_refusal(
        LoaderOrder(parameters=_lists(target.module, target.struct_module_address, wrong)),
        LoaderExitStatus.LOAD,
        "ESTALE",
    )


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("no-name", deep=("wrong-errno",))
@pytest.mark.own_loader("the claim is about the probe, which gets wrong values that no loader passes")
def test_exchanged_names(target: Target, probe_loaders: Loaders) -> None:
    """Two targets whose names are exchanged are refused: by name alone, because each handle has its own base.

    A loader that exchanges only the handles is refused too.
    """
    guest = probe_loaders.guest
    with Target(guest, "pinpoint_second") as second:
        both = (target, second)
        values = {
            "addresses": [f"{each.struct_module_address:#x}" for each in both],
            "names": [each.module for each in reversed(both)],
            "bases": [f"{base_of(guest, each.module):#x}" for each in both],
            "notes": ["0", "0"],
        }
        exchanged = [f"module_{name}={','.join(value)}" for name, value in values.items()]
        probe_loaders.expect_refusal(LoaderOrder(parameters=exchanged), LoaderExitStatus.LOAD, "ESTALE")
        targets = [each.module for each in both]
        probe_loaders.expect_refusal(
            LoaderOrder(targets=targets, mutant="swaps-handles"), LoaderExitStatus.LOAD, "ESTALE"
        )
        expect_result(probe_loaders.run(LoaderOrder(targets=targets)), LoaderExitStatus.DONE)
        guest.run("rmmod", PROBE).check()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-outside", deep=("wrong-errno",))
@pytest.mark.own_loader("the claim is about the probe, which gets wrong values that no loader passes")
def test_site_outside_every_target(layout: Layout, target: Target, probe_loaders: Loaders) -> None:
    """A site that is in none of the targets is ESTALE, though it is a function that the kernel would take."""
    leaf = target.elf.function("pinpoint_leaf")
    far = layout.probe_address(Site("clock_t_to_jiffies")) - target.sections[leaf.section]
    site = f"site=0+{far % (1 << 8 * layout.kernel.word_bytes):#x}"
    order = order_with_target_build_id(target, LoaderOrder(sections=[(target.module, leaf.section)], parameters=[site]))
    probe_loaders.expect_refusal(order, LoaderExitStatus.LOAD, "ESTALE")


@pytest.mark.mutants("one-of-many", deep=("loads-anyway", "wrong-errno"))
@pytest.mark.parametrize("in_memory", [False, True], ids=["finit_module", "init_module"])
@pytest.mark.own_loader("the claim is about the kernel and its errno")
def test_image_that_is_none(guest: Guest, probe_loaders: Loaders, *, in_memory: bool) -> None:
    """Garbage, half a file, and modules for another machine or kernel are ENOEXEC, by either system call."""
    module = Elf.read_cached(guest.image.modules["pinpoint_noexit"])
    images = {
        "garbage": b"no module at all\n" * 64,
        "half": doctored_modules.truncated(module),
        "foreign": doctored_modules.for_another_machine(module),
        "vermagic": doctored_modules.for_another_kernel(module),
    }
    for name, content in images.items():
        path = doctored_modules.copy_to_guest(guest, name, content)
        probe_loaders.expect_refusal(
            LoaderOrder(probe=path, load_from_memory=in_memory), LoaderExitStatus.LOAD, "ENOEXEC"
        )


@pytest.mark.mutants("wrong-errno", deep=("loads-anyway", "one-of-many"))
@pytest.mark.own_loader("the claim is about the kernel and its errno")
def test_parameters_too_long(probe_loaders: Loaders) -> None:
    """A parameter of more than 1024 characters is ENOSPC; a list with too many values is EINVAL."""
    probe_loaders.expect_refusal(
        LoaderOrder(parameters=[f"module_names={'x' * 1025}"]), LoaderExitStatus.LOAD, "ENOSPC"
    )
    probe_loaders.expect_refusal(
        LoaderOrder(parameters=[f"module_bases={'1,' * 128}1"]), LoaderExitStatus.LOAD, "EINVAL"
    )


@pytest.mark.deep
@pytest.mark.mutants("loads-anyway")
@pytest.mark.own_loader("the addresses of the second read are in its output")
def test_hundred_targets(guest: Guest, probe_loaders: Loaders) -> None:
    """With a hundred targets at once, each has its own token and handle, is validated, and is read again."""
    count = FEW if probe_loaders.mutant.replaces_every_order else MANY
    with hold_loaded_copies(guest, "pinpoint_noexit", count) as names:
        outcome = probe_loaders.run(LoaderOrder(targets=names))
        guest.run("rmmod", PROBE)
    expect_result(outcome, LoaderExitStatus.DONE)
    reread = {output.subject: output.fields["address"] for output in outcome.lines if output.step == "reread"}
    if not len(reread) == len(set(reread.values())) == count:
        raise Missed(f"{len(reread)} tokens of {len(set(reread.values()))} addresses were read again, not {count}")


@pytest.mark.mutants("forces")
def test_target_without_exit(guest: Guest, probe_loaders: Loaders) -> None:
    """A module with init and no exit works as a target; its removal is always EBUSY unless forced."""
    name = "pinpoint_noexit"
    guest.run("insmod", guest.copy_module(name)).check()
    try:
        expect_result(probe_loaders.run(LoaderOrder(targets=[name])), LoaderExitStatus.DONE)
        guest.run("rmmod", PROBE).check()
        removal = probe_loaders.delete_module(name)
    finally:
        guest.run("rmmod", "-f", name)
    if removal != "EBUSY":
        raise Missed(f"removal of a module without an exit returns {removal or 'no error'}")


@pytest.mark.requires("module_text_sections")
@pytest.mark.mutants("wrong-errno", deep=("loads-anyway",))
@pytest.mark.own_loader("the claim is about the kernel and its errno")
def test_two_sections_of_one_name(
    probe_loaders: Loaders, mutant: str, fresh: Fresh, figure: Callable[..., Figure]
) -> None:
    """A module with two sections of one name has no handle: it loses its whole sections/, or is not loaded at all.

    add_sect_attrs() of 6.1 ignores the error, and the module is loaded without sections/. Since then mod_sysfs_setup()
    was changed to return the error, in stable kernels too (6.12.95), and the load is EEXIST (kernel/module/sysfs.c). In
    both cases the kernel warns, which is a complaint like any other, so the case uses a guest of its own. The mutant is
    caught in the row's guest.
    """
    order = LoaderOrder(targets=["pinpoint_sections"])
    if mutant:
        probe_loaders.expect_refusal(order, LoaderExitStatus.OPEN, "ENOENT")
    with fresh(may_die=True) as other:
        twins = doctored_modules.with_two_sections_of_one_name(
            Elf.read_cached(other.image.modules["pinpoint_sections"])
        )
        inserted = other.run("insmod", doctored_modules.copy_to_guest(other, "twins", twins))
        assert "sysfs: cannot create duplicate filename" in other.read_output_since_fence(other.scaled_deadline(60))
        assert inserted.ok or "File exists" in inserted.stderr
        assert inserted.ok == other.run_script("[ -d /sys/module/pinpoint_sections ]").ok
        figure("twins.loaded", int(inserted.ok), "modules")
        Loaders(other).expect_refusal(order, LoaderExitStatus.OPEN, "ENOENT")


@pytest.mark.mutants("loads-anyway")
@pytest.mark.own_loader("the claim is about the kernel and its errno")
def test_lockdown(guest: Guest, probe_loaders: Loaders, mutant: str, fresh: Fresh) -> None:
    """Under lockdown an unsigned probe is EPERM.

    Lockdown cannot be undone, so the case uses a guest of its own. The mutant is a kernel that is not locked down: the
    row's guest.
    """
    if guest.image.config.get("CONFIG_SECURITY_LOCKDOWN_LSM") != "y":
        pytest.skip(f"{guest.name} has no lockdown")
    if mutant:
        probe_loaders.expect_refusal(LoaderOrder(), LoaderExitStatus.LOAD, "EPERM")
    with fresh() as locked:
        lockdown = "/sys/kernel/security/lockdown"
        mount = "mount -t securityfs none /sys/kernel/security"
        locked.run_script(f"{mount} && echo integrity >{lockdown} && umount /sys/kernel/security").check()
        Loaders(locked).expect_refusal(LoaderOrder(), LoaderExitStatus.LOAD, "EPERM")


def base_of(guest: Guest, module: str) -> int:
    """Return where a module's memory begins, from the sixth word of its line in /proc/modules."""
    words = guest.run("grep", f"^{module} ", "/proc/modules").check().stdout.split()
    return int(words[5], 16)


def _lists(module: str, handle: int, base: int) -> list[str]:
    """Return the loader's parameters for a target, without a build-id."""
    lists = {"addresses": f"{handle:#x}", "names": module, "bases": f"{base:#x}", "notes": "0"}
    return [f"module_{name}={value}" for name, value in lists.items()]
