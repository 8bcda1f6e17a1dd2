"""delete_module(2) with O_TRUNC: what stands against it, and what it does to who holds a reference.

try_stop_module() passes over a reference count that is not zero and taints the kernel; a list of dependents that is not
empty is asked for before, and force is no answer to it (kernel/module/main.c, 6.1). The orders of test_schedules.py end
where this begins: what happens after that is undefined.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.guest.guest import Guest
from harness.landing.landing import Missed
from harness.pinning import forcing
from harness.pinning.loader_fixture import Loaders
from harness.report.measurements import Figure
from harness.verdict.complaints import read

Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.deep
@pytest.mark.mutants("only-asks")
def test_forced_under_a_reference(loaders: Loaders, fresh: Fresh, mutant: str, figure: Callable[..., Figure]) -> None:
    """The target goes, reference or not, and the initializer then follows its handle into freed memory.

    In a guest of its own, which need not live through it: the kernel complains, in words that are its own.
    """
    with nullcontext(loaders.guest) if mutant else fresh(may_die=True) as guest:
        forced = forcing.under_a_reference(Loaders(guest, loaders.mutant))
        forced.prove(guest)
    complaints = read(forced.printed, timed=True)
    figure("forced.complaints", len(complaints), "complaints", goal="at least 1")
    if not complaints:
        raise Missed(f"a reference given back to a module that is no more does no harm: {forced.printed!r}")


@pytest.mark.mutants("lets-go")
def test_force_spares_dependents(loaders: Loaders) -> None:
    """A module that another one needs is not removed by force either."""
    removal = forcing.under_a_dependent(loaders)
    if removal != forcing.IN_USE:
        raise Missed(f"a module that another one needs: forced, removal returns {removal or 'no error'}")
