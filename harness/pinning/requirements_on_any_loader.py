"""What any loader must do, as claims that each need one loader: ours, or a foreign one.

Each claim raises Missed with what the loader did instead, and leaves neither the probe nor another target loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import HANDLE_SECTION, Target
from harness.pinning.foreign_loader import open_files_below_sys_module
from harness.pinning.loader import PROBE, LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import Loaders, expect_gone, expect_result, order_with_target_build_id

TIMES = 3
IN_USE = "EAGAIN"
_ABSENT = "pinpoint_absent"
# The number of attempts in which a reloaded target must get its earlier address.
_ATTEMPTS = 4


def lands(loaders: Loaders, layout: Layout, target: Target) -> None:
    """The probe is at section + offset of its target, by all witnesses, and is hit by each call."""
    site = layout.once_per_call_sites(Site("pinpoint_leaf", module=target.module))[1]
    loaders.load_and_prove_landing(layout, site, lambda: target.call_for_checksum("leaf", TIMES), hits=TIMES)


def passes_target_addresses_in_order(loaders: Loaders, first: Target, second: Target) -> None:
    """The probe gets the addresses of two targets in the order in which they are named, whichever that is."""
    for targets in ((first, second), (second, first)):
        builds = f"module_build_ids={','.join(each.elf.build_id for each in targets)}"
        order = LoaderOrder(targets=[each.module for each in targets], parameters=[builds], gates=["load"])
        with loaders(order) as loader:
            loader.await_gate("load")
            outcome = loader.continue_to_end()
        try:
            expect_result(outcome, LoaderExitStatus.DONE)
        finally:
            loaders.guest.run("rmmod", PROBE)


def holds_nothing_afterwards(loaders: Loaders, target: Target) -> None:
    """After the loader has ended, no process has a file of the target open, and nothing refers to the target."""
    expect_result(loaders.run(order_with_target_build_id(target, LoaderOrder())), LoaderExitStatus.DONE)
    try:
        with _held_for_mutant(loaders, target):
            held = [each for each in open_files_below_sys_module(loaders.guest) if f"/{target.module}/" in each]
            count = loaders.guest.read_text(f"/sys/module/{target.module}/refcnt").strip()
        if held or count != "0":
            raise Missed(f"after the loader's end {target.module} has {count} references and open files: {held}")
    finally:
        loaders.guest.run("rmmod", PROBE)


def refuses_instance_that_is_gone(loaders: Loaders, target: Target) -> None:
    """If the same build replaces the target at the same address during the load, the loader refuses.

    Every check of the probe itself passes. The kernel must not pin the target by open files.
    """
    for _ in range(_ATTEMPTS):
        with loaders(order_with_target_build_id(target, LoaderOrder(gates=["load"]))) as loader:
            loader.await_gate("load")
            handle = target.struct_module_address
            target.unload()
            target.load()
            outcome = loader.continue_to_end()
        # On parisc the first attempt moves the target, and the next one finds it where it is.
        if target.struct_module_address == handle:
            break
        _remove_probe(loaders.guest)
    else:
        raise GuestError(f"{target.module} is loaded at another address each time", where=loaders.guest.name)
    try:
        expect_result(outcome, LoaderExitStatus.STALE, "ENODEV")
        expect_gone(loaders.guest, PROBE)
    finally:
        _remove_probe(loaders.guest)


def pins_target_until_load(loaders: Loaders, target: Target) -> None:
    """Between the loader's open and the load, removal of the target is refused; the kernel must pin by open files."""
    with loaders(LoaderOrder(targets=[target.module], gates=["load"])) as loader:
        loader.await_gate("load")
        expect_removal_refused(loaders, target)
        outcome = loader.continue_to_end()
    loaders.guest.run("rmmod", PROBE)
    expect_result(outcome, LoaderExitStatus.DONE)


def refuses_absent_target(loaders: Loaders) -> None:
    """A module that is not loaded or is built in has no handle, and the loader refuses at the open."""
    assert loaders.guest.run_script("[ -d /sys/module/kernel ]").ok
    for name in (_ABSENT, "kernel"):
        loaders.expect_refusal(LoaderOrder(targets=[name]), LoaderExitStatus.OPEN, "ENOENT")


def expect_removal_refused(loaders: Loaders, target: Target) -> None:
    """Check that the kernel refuses to remove a target. If it does not, load the target again and raise Missed."""
    removal = loaders.delete_module(target.module)
    if not removal:
        target.load()
        raise Missed(f"{target.module} was removed")
    assert removal == IN_USE


def _remove_probe(guest: Guest) -> None:
    guest.run_script(f"[ ! -e /sys/module/{PROBE} ] || rmmod {PROBE}")


@contextmanager
def _held_for_mutant(loaders: Loaders, target: Target) -> Iterator[None]:
    """In the cell of the mutant that holds something else, hold a section file of the target while the block runs."""
    if not loaders.mutant.holds_extra_pin:
        yield
        return
    script = f"exec 3</sys/module/{target.module}/sections/{HANDLE_SECTION}; echo held; read word"
    with _program(loaders.guest, script):
        yield


@contextmanager
def _program(guest: Guest, script: str) -> Iterator[None]:
    deadline = guest.scaled_deadline(60.0)
    with guest.start_dialogue("sh", "-c", script) as dialogue:
        if dialogue.read_line(deadline) != "held":
            raise GuestError("the file cannot be held", where=guest.name)
        yield
        dialogue.send_line("go", deadline)
        dialogue.await_exit_status(deadline)
