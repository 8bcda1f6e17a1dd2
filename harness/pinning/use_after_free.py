"""Follows a stale handle unchecked into freed memory: the failure that the safe look-up prevents."""

from __future__ import annotations

from harness.core.errors import GuestError
from harness.landing.freed_module_addresses import free_addresses_of_removed_modules
from harness.landing.target import Target
from harness.pinning.hold_module_in_state import hold_initializer_at_gate
from harness.pinning.loader import LoaderOrder
from harness.pinning.loader_fixture import Loaders, order_with_target_build_id

_TARGET = "pinpoint_target"
_UNCHECKED = "mutant=handle-unchecked"
# An emulated kernel prints an oops in seconds; a guest that does not respond is given up after this time.
_SECONDS = 60.0


def follow_stale_handle(loading: Loaders) -> str:
    """The kernel's output when an initializer follows its handle after the target is removed.

    The target is removed while the initializer waits at its first gate, so that nothing else is loaded at its address.
    The loader closes its tokens before, because some kernels would refuse the removal. The guest may not survive this;
    with a mutant that looks the handle up nothing happens. Raises GuestError if the target cannot be removed.
    """
    guest = loading.guest
    broken = [] if loading.mutant.checks_stale_handle else [_UNCHECKED]
    target = Target(guest, _TARGET)
    target.load()
    order = order_with_target_build_id(
        target, LoaderOrder(parameters=["gates=entered", *broken], mutant="closes-early")
    )
    since: int | None = None
    try:
        with loading(order) as loader:
            with hold_initializer_at_gate(loader, "entered"):
                target.unload()
                # Without this the CPU may still have a translation of the freed memory, and following does no harm.
                free_addresses_of_removed_modules(guest)
                since = guest.console.position
            loader.continue_to_end(guest.scaled_deadline(_SECONDS))
            guest.read_output_since_fence(guest.scaled_deadline(_SECONDS))
    except GuestError:
        # After the target is removed, the guest may print nothing more.
        if since is None:
            raise
    return guest.console.text(since)
