"""A hit that is inside its handler survives the removal of its probe, its code or its process.

A gate in the handler makes the order certain. A complaint of the kernel fails the cell.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.images.user_targets import FIRST_LIBRARY, RUNNER
from harness.landing.landing_judgment import Missed
from harness.report.metrics_with_goals import Figure
from harness.userspace.hits_held_in_handler import UprobeGate
from harness.userspace.stress import ProgramFailed, RoundAndHitCounts, toggle_uprobe
from harness.userspace.uprobes_fixture import Uprobes
from harness.verdict.cell_verdict_enum import end_as_known_fail
from harness.verdict.complaints import Complaint, is_only_complaint, read_sorted_complaints

LEAF = "pinpoint_one_leaf"
FENCE_SECONDS = 60.0


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-gate-open")
def test_removed_during_a_hit(uprobes: Uprobes) -> None:
    """Removing a probe waits for a hit that is in its handler, and the process then continues normally."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as process:
        plain = process.call(LEAF, 1)
        with UprobeGate(uprobes, file, LEAF) as gate:
            process.send_command_async(f"call {LEAF} 1")
            gate.await_hit()
            gate.prove_removal_waits()
            if process.read_answer()["value"] != plain:
                raise Missed("the function returned another value under the probe")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-gate-open", deep=("user-spares-it",))
@pytest.mark.parametrize(
    "what", ["killed", *(pytest.param(what, marks=pytest.mark.deep) for what in ("exit", "exec")), "unmap"]
)
def test_gone_during_a_hit(uprobes: Uprobes, what: str) -> None:
    """During a hit the process can be killed, exit, execute another program or unmap the code."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as process:
        with UprobeGate(uprobes, file, LEAF) as gate:
            process.send_command(f"spin {LEAF}")
            gate.await_hit()
            if uprobes.mutant.skips_event_during_hit:
                pass
            elif what == "killed":
                gate.kill_process(process.pid)
            elif what == "exec":
                process.exec_program(uprobes.target_file(RUNNER))
            elif what == "unmap":
                process.send_command(f"unmap {LEAF}")
            else:
                process.send_command_async("exit 7")
                process.end()
        if what == "exec" and process.count_threads() != 1:
            raise Missed("exec during a hit: the thread that was in the handler is still there")
        status = process.end()
        wanted = {"killed": -1, "unmap": -1, "exit": 7, "exec": 0}[what]
        if status != wanted:
            raise Missed(f"{what} during a hit: the process ended with {status}, not {wanted}")


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
@pytest.mark.parametrize("rounds", [pytest.param(6, id="few"), pytest.param(60, id="many", marks=pytest.mark.full)])
def test_toggled_under_hits(
    uprobes: Uprobes,
    fresh: Callable[..., AbstractContextManager[Guest]],
    rounds: int,
    figure: Callable[..., Figure],
    mutant: str,
) -> None:
    """Probes are added and removed under a thread that hits all the time, while processes start, fork and end.

    A kernel with the documented defect may print one WARNING, when a thread gets a signal in the middle of a step. On
    one with the other, SIGSEGV may end a process that continues at the address of another one.
    """
    cause = uprobes.guest.image.recipe.defects.signal_before_uprobe
    shared = uprobes.guest.image.recipe.defects.uprobe_resume_address_shared
    complaints: Sequence[Complaint] = ()
    if mutant or not cause:
        try:
            races = toggle_under_spinning_thread(uprobes, rounds)
        except ProgramFailed as failed:
            if shared and failed.by_signal:
                end_as_known_fail(shared)
            raise
    else:
        with fresh(may_die=True) as other:
            other.read_output_since_fence(other.scaled_deadline(FENCE_SECONDS))
            races = toggle_under_spinning_thread(uprobes.in_guest(other), rounds)
            printed = other.read_output_since_fence(other.scaled_deadline(FENCE_SECONDS))
            complaints = read_sorted_complaints(printed, other.image.recipe.boot_noise).alarming
    if not races.hits:
        raise Missed(f"no hit in {races.rounds} rounds")
    figure("uprobe.races", races.rounds, "races")
    if cause and is_only_complaint(complaints, "kernel/events/uprobes.c", "uprobe_deny_signal"):
        end_as_known_fail(cause)
    if complaints:
        raise Missed("; ".join(map(str, complaints)))


def toggle_under_spinning_thread(uprobes: Uprobes, rounds: int) -> RoundAndHitCounts:
    """Toggle a uprobe while a thread of another process hits it all the time."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as process:
        process.send_command(f"spin {LEAF}")
        races = toggle_uprobe(uprobes, file, LEAF, rounds)
        try:
            process.send_command("rest")
        except GuestError:
            status = process.end()
            raise ProgramFailed(f"the process that spins ended with {status}", by_signal=status == -1) from None
    return races
