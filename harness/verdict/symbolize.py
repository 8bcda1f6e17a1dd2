"""Name addresses of a guest without a request to it: the guest may hang."""

from __future__ import annotations

from collections.abc import Callable

from harness.core.errors import PinpointError
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.past_end import in_function
from harness.landing.target import loaded


def namer(guest: Guest) -> Callable[[int], str]:
    """Names addresses as function + offset, by the kernel's ELF file and those of its targets that are loaded.

    An address outside of all of them stays a number, and so does each of a guest whose slide was never read.
    """
    layout = Layout(guest, loaded(guest))

    def name(address: int) -> str:
        try:
            return layout.meaning(address) if in_function(layout, address) else f"{address:#x}"
        except PinpointError:
            return f"{address:#x}"

    return name
