"""Removal by force, which no reference stands against, and what becomes of one that was held."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import readable
from harness.landing.landing import Missed
from harness.landing.target import Target
from harness.pinning.loader import Order
from harness.pinning.loader_fixture import Loaders, for_build
from harness.pinning.module_states import delete, stopped

IN_USE = "EAGAIN"
_TARGET = "pinpoint_target"
# An emulated kernel prints an oops in seconds; one that never answers again is not waited for any longer.
_SECONDS = 60.0
# include/linux/panic.h (6.1): a module was removed by force.
_TAINT_FORCED_RMMOD = 1 << 3


@dataclass(frozen=True)
class Forced:
    """A target that was removed while an initializer held a reference to it.

    `asked` and `forced` are what removal answered without force and with it, empty when the module went; `tainted`
    is whether the kernel's taint shows it; `printed` is the console output once the
    initializer went on, to give its reference back to a module that is no more.
    """

    asked: str
    forced: str
    tainted: bool
    printed: str

    def prove(self, guest: Guest) -> None:
        """A reference stands against removal, and not against force where the kernel has that. Raises Missed."""
        has_force = guest.image.config.get("CONFIG_MODULE_FORCE_UNLOAD") == "y"
        if (self.asked, self.forced, self.tainted) != (IN_USE, "" if has_force else IN_USE, has_force):
            raise Missed(
                f"asked, removal gives {self.asked or 'no error'}; forced, {self.forced or 'no error'}; the kernel is "
                f"{'' if self.tainted else 'not '}tainted by it, and has {'' if has_force else 'no '}force"
            )


def under_a_reference(loading: Loaders) -> Forced:
    """Let an initializer take its reference, remove the target by force, and let the initializer go on.

    The guest may not live through that. A mutant that only asks, asks twice.
    """
    guest = loading.guest
    target = Target(guest, _TARGET)
    target.load()
    answer: str | None = None
    try:
        with loading(for_build(target, Order(parameters=["gates=validated"]))) as loader:
            with stopped(loader, "validated"):
                asked = loading.delete(_TARGET)
                answer = delete(guest, _TARGET, force=not loading.mutant.asks)
                with readable("the taint"):
                    taint = int(guest.read_text("/proc/sys/kernel/tainted"))
                since = guest.console.position
            loader.finish(guest.budget(_SECONDS))
            guest.fence(guest.budget(_SECONDS))
    except GuestError:
        # Once the target went, the guest may print nothing more.
        if answer != "":
            raise
    if answer:
        delete(guest, "pinpoint_pinned")
        target.unload()
    return Forced(asked, answer, bool(taint & _TAINT_FORCED_RMMOD), guest.console.text(since))


def under_a_dependent(loading: Loaders) -> str:
    """What forced removal answers for a module that another one needs; empty when it went, as with a mutant without."""
    guest = loading.guest
    guest.run("insmod", guest.ship("pinpoint_pins")).check()
    if not loading.mutant.lets_go:
        guest.run("insmod", guest.ship("pinpoint_depends")).check()
    answer = delete(guest, "pinpoint_pins", force=True)
    if answer:
        guest.run("rmmod", "pinpoint_depends", "pinpoint_pins").check()
    return answer
