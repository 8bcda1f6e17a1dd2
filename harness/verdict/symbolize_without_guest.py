"""Name addresses of a guest without a request to it, because the guest may hang."""

from __future__ import annotations

from collections.abc import Callable

from harness.core.errors import PinpointError
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.past_end import is_in_any_function
from harness.landing.target import loaded_targets


def make_symbolizer(guest: Guest) -> Callable[[int], str]:
    """Return a function that formats an address as function + offset, from the ELF files of kernel and loaded targets.

    An address outside of all functions stays a number. So does every address if the guest's slide was never read.
    """
    layout = Layout(guest, loaded_targets(guest))

    def name(address: int) -> str:
        try:
            return layout.describe_address(address) if is_in_any_function(layout, address) else f"{address:#x}"
        except PinpointError:
            return f"{address:#x}"

    return name
