"""A probe module that follows a handle without looking it up uses freed memory, and the kernel reports it.

The mutants of test_loader.py leave out the other steps of the protocol; those mutants load a probe that must not be
loaded. This step is different: without it the probe uses memory after it was freed, which a debugging kernel reports.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.pinning.loader_fixture import Loaders
from harness.pinning.use_after_free import follow_stale_handle
from harness.report.metrics_with_goals import Figure
from harness.verdict.complaints import read_complaints

# KASAN's reader of shadow memory, mm/kasan/generic.c. When the areas freed by vfree() are purged, a shadow page goes if
# all of the 32 KiB that it describes are free (kasan_release_vmalloc(), mm/kasan/shadow.c:538, 6.1): then the reader
# faults, and nothing prints a report.
_SHADOW_READER = "kasan_check_range"
Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.mutants("checks-handle")
@pytest.mark.own_loader("the claim is about a probe that checks nothing")
def test_handle_followed_unchecked(
    probe_loaders: Loaders, fresh: Fresh, mutant: str, figure: Callable[..., Figure]
) -> None:
    """If the target is removed before its handle is followed, the kernel complains, in KASAN if it has that."""
    with nullcontext(probe_loaders.guest) if mutant else fresh(may_die=True) as guest:
        complaints = read_complaints(follow_stale_handle(Loaders(guest, probe_loaders.mutant)), timed=True)
    figure("harm.complaints", len(complaints), "complaints", goal="at least 1")
    if not complaints:
        raise Missed("a handle followed into freed memory does no harm")
    if guest.image.config.get("CONFIG_KASAN") == "y":
        reported = any("KASAN: " in line for complaint in complaints for line in complaint.lines)
        faulted = any(complaint.source_place == _SHADOW_READER for complaint in complaints)
        assert reported or faulted, f"KASAN does not find it: {complaints[0]}"
