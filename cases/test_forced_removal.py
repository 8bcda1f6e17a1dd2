"""delete_module(2) with O_TRUNC removes a module despite its references, but not if another module depends on it.

try_stop_module() ignores a reference count that is not zero and taints the kernel. The list of dependents is checked
earlier, and O_TRUNC does not override that check (kernel/module/main.c, 6.1). The schedules of test_schedules.py stop
before a forced removal, because the behavior after it is undefined.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.pinning import forced_module_removal
from harness.pinning.loader_fixture import Loaders
from harness.report.metrics_with_goals import Figure
from harness.verdict.complaints import read_complaints

Fresh = Callable[..., AbstractContextManager[Guest]]


@pytest.mark.deep
@pytest.mark.mutants("only-asks")
@pytest.mark.own_loader("the claim is about removal by force")
def test_forced_under_a_reference(
    probe_loaders: Loaders, fresh: Fresh, mutant: str, figure: Callable[..., Figure]
) -> None:
    """Forced removal unloads a referenced target, and the initializer then follows its handle into freed memory.

    The kernel complains, in different words on each kernel. The case has a guest of its own, which may die.
    """
    with nullcontext(probe_loaders.guest) if mutant else fresh(may_die=True) as guest:
        forced = forced_module_removal.force_removal_under_reference(Loaders(guest, probe_loaders.mutant))
        forced.prove_only_force_removes(guest)
    complaints = read_complaints(forced.console_output, timed=True)
    figure("forced.complaints", len(complaints), "complaints", goal="at least 1")
    if not complaints:
        raise Missed(f"a reference given back to a module that is no more does no harm: {forced.console_output!r}")


@pytest.mark.mutants("lets-go")
@pytest.mark.own_loader("the claim is about removal by force")
def test_force_spares_dependents(probe_loaders: Loaders) -> None:
    """Forced removal does not remove a module that another module needs."""
    removal = forced_module_removal.forced_removal_errno_under_dependent(probe_loaders)
    if removal != forced_module_removal.IN_USE:
        raise Missed(f"a module that another one needs: forced, removal returns {removal or 'no error'}")
