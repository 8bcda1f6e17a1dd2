"""A sample of a kernel's functions: evenly spread over its text, and such as it takes a probe on."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from harness.core.elf import Symbol
from harness.core.errors import GuestError
from harness.landing.code.functions import evenly
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.sweep.sweep_refusals import Refusals

# Candidates for each place in a sample: what each may be refused for is looked up in the guest.
_CANDIDATES = 2


def spread(layout: Layout, functions: Sequence[Symbol], count: int) -> list[Site]:
    """`count` entries of these functions, evenly spread over them, passing over what the kernel is bound to refuse.

    Raises GuestError when there are not so many.
    """
    refusals = Refusals(layout)
    candidates = [Site(symbol.name) for symbol in evenly(functions, _CANDIDATES * count)]
    taken = [site for site in candidates if not refusals.reason(site, layout.address(site), errno.EINVAL)]
    if len(taken) < count:
        raise GuestError(f"only {len(taken)} functions to choose {count} from", where=layout.guest.name)
    return evenly(taken, count)
