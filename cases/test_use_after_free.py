"""What becomes of a kernel whose probe module follows a handle that it was given, and does not look it up first.

The other steps of the protocol are left out in the mutants of test_loader.py: a probe is loaded then that must not be.
This one is memory that is used after it was freed, and a debugging kernel reports it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.guest.guest import Guest
from harness.landing.landing import Missed
from harness.pinning.loader_fixture import Loaders
from harness.pinning.use_after_free import followed
from harness.report.measurements import Figure
from harness.verdict.complaints import read

Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.mutants("checks-handle")
def test_handle_followed_unchecked(loaders: Loaders, fresh: Fresh, mutant: str, figure: Callable[..., Figure]) -> None:
    """The target goes before its handle is followed: the kernel complains, by KASAN where it has that."""
    with nullcontext(loaders.guest) if mutant else fresh(may_die=True) as guest:
        complaints = read(followed(Loaders(guest, loaders.mutant)), timed=True)
    figure("harm.complaints", len(complaints), "complaints", goal="at least 1")
    if not complaints:
        raise Missed("a handle followed into freed memory does no harm")
    if guest.image.config.get("CONFIG_KASAN") == "y":
        reported = [line for complaint in complaints for line in complaint.lines if "KASAN: " in line]
        assert reported, f"KASAN does not report it: {complaints[0]}"
