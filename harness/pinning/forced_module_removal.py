"""Removes modules by force, which no reference prevents, and reads what happens to a reference that was held."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.landing_judgment import Missed
from harness.landing.target import Target
from harness.pinning.hold_module_in_state import delete_module, hold_initializer_at_gate
from harness.pinning.loader import LoaderOrder
from harness.pinning.loader_fixture import Loaders, order_with_target_build_id

IN_USE = "EAGAIN"
_TARGET = "pinpoint_target"
# An emulated kernel prints an oops in seconds; a guest that does not respond is given up after this time.
_SECONDS = 60.0
# include/linux/panic.h (6.1): a module was removed by force.
_TAINT_FORCED_RMMOD = 1 << 3


@dataclass(frozen=True)
class ForcedRemoval:
    """The result of removing a target while an initializer held a reference to it.

    `unforced_errno` and `forced_errno` are the errno names of removal without force and with it; empty if the module
    was removed. `tainted` is true if the kernel's taint shows the forced removal. `console_output` is the console
    output from the moment when the initializer continued and released its reference to the removed module.
    """

    unforced_errno: str
    forced_errno: str
    tainted: bool
    console_output: str

    def prove_only_force_removes(self, guest: Guest) -> None:
        """Check that a reference prevents removal, but not forced removal if the kernel supports it. Raises Missed."""
        has_force = guest.image.config.get("CONFIG_MODULE_FORCE_UNLOAD") == "y"
        if (self.unforced_errno, self.forced_errno, self.tainted) != (IN_USE, "" if has_force else IN_USE, has_force):
            raise Missed(
                f"removal returned {self.unforced_errno or 'no error'}, forced removal "
                f"{self.forced_errno or 'no error'}; the kernel "
                f"is {'' if self.tainted else 'not '}tainted, and has {'' if has_force else 'no '}forced removal"
            )


def force_removal_under_reference(loading: Loaders) -> ForcedRemoval:
    """Let an initializer take its reference, remove the target by force, and let the initializer continue.

    The guest may not survive this. The mutant with `removes_without_force` requests removal without force both times.
    """
    guest = loading.guest
    target = Target(guest, _TARGET)
    target.load()
    answer: str | None = None
    try:
        with loading(order_with_target_build_id(target, LoaderOrder(parameters=["gates=validated"]))) as loader:
            with hold_initializer_at_gate(loader, "validated"):
                asked = loading.delete_module(_TARGET)
                answer = delete_module(guest, _TARGET, force=not loading.mutant.removes_without_force)
                with parsing_guest_text("the taint"):
                    taint = int(guest.read_text("/proc/sys/kernel/tainted"))
                since = guest.console.position
            loader.continue_to_end(guest.scaled_deadline(_SECONDS))
            guest.read_output_since_fence(guest.scaled_deadline(_SECONDS))
    except GuestError:
        # After the target is removed, the guest may print nothing more.
        if answer != "":
            raise
    if answer:
        delete_module(guest, "pinpoint_pinned")
        target.unload()
    return ForcedRemoval(asked, answer, bool(taint & _TAINT_FORCED_RMMOD), guest.console.text(since))


def forced_removal_errno_under_dependent(loading: Loaders) -> str:
    """The errno name of forced removal of a module that another one needs; empty if it was removed.

    A mutant loads no dependent, so that the module is removed.
    """
    guest = loading.guest
    guest.run("insmod", guest.copy_module("pinpoint_pins")).check()
    if not loading.mutant.releases_pin_early:
        guest.run("insmod", guest.copy_module("pinpoint_depends")).check()
    answer = delete_module(guest, "pinpoint_pins", force=True)
    if answer:
        guest.run("rmmod", "pinpoint_depends", "pinpoint_pins").check()
    return answer
