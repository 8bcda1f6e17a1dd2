"""Follow a stale handle unchecked into freed memory: the failure that the safe look-up prevents."""

from __future__ import annotations

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.landing.target import Target
from harness.pinning.loader import Order
from harness.pinning.loader_fixture import Loaders, for_build
from harness.pinning.module_states import stopped

_TARGET = "pinpoint_target"
_UNCHECKED = "mutant=handle-unchecked"
# An emulated kernel prints an oops in seconds; one that never answers again is not waited for any longer.
_SECONDS = 60.0


def followed(loading: Loaders) -> str:
    """What the kernel prints when an initializer follows its handle after the target went.

    The target goes while the initializer stands at its first gate, so that nothing has been loaded into the hole. The
    loader has closed its tokens, or a kernel on which they pin would keep the target. The guest may not live through
    it; a mutant that looks the handle up does no harm. Raises GuestError when the target cannot be removed.
    """
    guest = loading.guest
    broken = [] if loading.mutant.checks else [_UNCHECKED]
    target = Target(guest, _TARGET)
    target.load()
    order = for_build(target, Order(parameters=["gates=entered", *broken], mutant="closes-early"))
    since: int | None = None
    try:
        with loading(order) as loader:
            with stopped(loader, "entered"):
                target.unload()
                since = guest.console.position
            loader.finish(Deadline.after(_SECONDS))
            guest.fence(Deadline.after(_SECONDS))
    except GuestError:
        # Once the target went, the guest may print nothing more.
        if since is None:
            raise
    return guest.console.text(since)
