"""A sample of a kernel's functions, evenly spread over its text, on which the kernel accepts a probe."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from harness.core.elf import Symbol
from harness.core.errors import GuestError
from harness.landing.code.function_selection import evenly_spread
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.sweep.documented_refusal_reasons import RefusalReasonFinder

# Candidates for each member of a sample; reasons for refusing them are looked up in the guest.
_CANDIDATES = 2


def sample_entries(layout: Layout, functions: Sequence[Symbol], count: int) -> list[Site]:
    """`count` entries of these functions, evenly spread, without those that the kernel must refuse.

    Raises GuestError if there are fewer.
    """
    refusals = RefusalReasonFinder(layout)
    candidates = [layout.entry_site(Site(symbol.name)) for symbol in evenly_spread(functions, _CANDIDATES * count)]
    taken = [site for site in candidates if not refusals.reason(site, layout.probe_address(site), errno.EINVAL)]
    if len(taken) < count:
        raise GuestError(f"only {len(taken)} functions to choose {count} from", where=layout.guest.name)
    return evenly_spread(taken, count)
