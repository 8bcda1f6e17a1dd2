"""A signal to a loader closes none of its files before its probe's initializer has returned, however that waits.

The tokens that a loader holds are therefore valid for as long as the initializer runs. A fatal signal takes effect when
the system call returns.
"""

import pytest

from harness.landing.target import Target
from harness.pinning.loader_fixture import Loaders
from harness.pinning.open_files_of_signalled_loader import SIGNALS, WAITS, signal_during_initializer
from harness.verdict.cell_verdict_enum import end_as_known_fail


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("betrayed", deep=("closes-early",))
@pytest.mark.parametrize("waits", ["busy", "interruptible", pytest.param("uninterruptible", marks=pytest.mark.deep)])
@pytest.mark.own_loader("it is signalled by its process id, and a foreign loader may be several processes")
def test_signal_in_the_initializer(target: Target, probe_loaders: Loaders, waits: str) -> None:
    """With KILL, TERM, INT and STOP the initializer itself counts as many open files at its end as at its beginning.

    An initializer that is busy or waits uninterruptibly goes on. One that waits interruptibly fails, and its module is
    freed; after STOP and CONT the kernel repeats the system call. On a kernel whose recipe documents the defect the
    call fails with EINTR instead, and the module is freed then too.
    """
    cause = target.guest.image.recipe.defects.stopped_call_not_repeated
    for signal in SIGNALS:
        signal_during_initializer(probe_loaders, target, waits, signal).prove(call_not_repeated=cause is not None)
    if cause and WAITS[waits]:
        end_as_known_fail(cause)
