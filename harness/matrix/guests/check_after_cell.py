"""The check after each cell: kernel complaints, anything left behind, and whether the guest can be used again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from harness.core.errors import DeadlineExceeded, GuestError, GuestLost, PinpointError
from harness.guest.guest import Guest
from harness.images.vm_recipe import Recipe
from harness.matrix.guests import guest_state, loaded_targets
from harness.matrix.guests.guest_state import GuestState
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaints import Complaint, read_sorted_complaints
from harness.verdict.liveness import Condition, Diagnosis, GuestDied, diagnose_guest
from harness.verdict.symbolize_without_guest import make_symbolizer
from harness.verdict.traces import frames

# A fence is one SSH round trip and one console line. A guest that cannot do both in this time is lost.
_FENCE_SECONDS = 60.0
# A guest that has just answered prints its log within a second or two.
_LOG_SECONDS = 30.0
# How many lines of stack traces a failure shows.
_MOST_FRAMES = 40
# A program whose connection was closed, or a helper that the kernel called, takes a moment to exit.
GONE_SECONDS = 10.0
# As many looks at least, with a short sleep of the guest before each: the guest's own clock decides, too. On a machine
# whose host takes its processors away, QEMU seems to run while the guest's clock stands.
FEWEST_LOOKS = 20
_clean: WeakKeyDictionary[Guest, GuestState] = WeakKeyDictionary()
# When each guest last answered one of these checks, on the monotonic clock.
_answered: WeakKeyDictionary[Guest, float] = WeakKeyDictionary()


class KernelComplained(Exception):
    """The kernel printed a warning, an oops or worse.

    The message lists the complaints, then their traces with source lines. `files` are the files of the loaded modules,
    by name.
    """

    def __init__(self, complaints: Sequence[Complaint], files: Mapping[str, Path]) -> None:
        self.complaints = tuple(complaints)
        counts = Counter(str(complaint) for complaint in complaints)
        heads = "; ".join(f"{text} ({times} times)" if times > 1 else text for text, times in counts.items())
        traces = dict.fromkeys(
            f"\n    {frame}" for complaint in self.complaints for frame in frames(complaint.lines, files)
        )
        super().__init__(heads + "".join(list(traces)[:_MOST_FRAMES]))

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the complaints."""
        return max((complaint.verdict for complaint in self.complaints), key=lambda verdict: verdict.severity)


class GuestStateChanged(AssertionError):
    """The cell left modules, references, kprobes, mounts or processes in the guest, or removed some."""


class UnexplainedCrash(AssertionError):
    """The kernel's taint or its counts show a crash or a warning that is not on the console."""


def record_state_before_first_cell(guest: Guest) -> str:
    """Record the guest's state before its first cell; return the boot noise that its recipe allows, for the board.

    Raises KernelComplained for any other complaint.
    """
    _clean[guest], _ = _state(guest)
    foreseen = read_sorted_complaints(guest.console.text(), guest.image.recipe.boot_noise).allowed
    return "; ".join(f"allowed: {complaint}: {noise.why}" for complaint, noise in foreseen)


def check_after_cell(guest: Guest) -> str:
    """Check that a cell left the guest as it found it, except for a target module that is kept loaded.

    Returns why the guest must be discarded although the cell did nothing wrong; empty if it need not be. Raises
    KernelComplained, UnexplainedCrash or GuestStateChanged, or GuestLost when the guest does not answer. A guest that
    fails this check is not used again, so the state before the first cell is also the state before each later one,
    except for the counts of warnings and oopses that allowed complaints explain.
    """
    clean, (after, allowed), deadline = _clean[guest], _state(guest), guest.scaled_deadline(GONE_SECONDS)
    looks = 0
    while clean.added_processes(after) and (looks < FEWEST_LOOKS or not deadline.expired):
        after, more = _state(guest, "sleep 0.1; ")
        allowed, looks = allowed + more, looks + 1
    unexplained = clean.unexplained_crashes(after, allowed)
    if unexplained:
        raise UnexplainedCrash(f"the kernel has {unexplained}, and no complaint on the console explains this")
    _clean[guest] = replace(clean, crash_counts=after.crash_counts)
    changed = clean.list_changes(after, loaded_targets.names_of_kept_modules(guest))
    if changed:
        raise GuestStateChanged(f"the cell left the guest changed: {', '.join(changed)}")
    return guest.used_up or clean.discard_reason(after, guest.image.recipe.machine.memory_mib)


def seconds_since_check(guest: Guest) -> float:
    """Return how long ago a guest last answered one of these checks; 0 if it was never checked."""
    return time.monotonic() - _answered[guest] if guest in _answered else 0.0


def complaints_since_check(guest: Guest) -> tuple[Complaint, ...]:
    """Return what the kernel has complained of since the last check, without what its recipe allows."""
    return read_sorted_complaints(guest.console.lines(guest.fence_position), guest.image.recipe.boot_noise).alarming


def explain_loss(guest: Guest, lost: GuestError) -> Exception:
    """Return why a guest does not answer: a kernel complaint, its diagnosis, or `lost` itself."""
    if found := complaints_since_check(guest):
        return KernelComplained(found, _files(guest))
    if guest.qemu_process.stopped:
        return lost
    if guest.heartbeat is None:
        # Nothing can be diagnosed, but a killed QEMU shows nothing about the kernel.
        return guest.qemu_process.kill_error or lost
    diagnosis = diagnose_guest(guest, found, make_symbolizer(guest))
    if diagnosis.condition.verdict.acceptable and type(lost) is GuestLost and _answers(guest):
        diagnosis = Diagnosis(Condition.OUR_FAULT, f"{lost.what}; the guest answers a new request")
    return lost if diagnosis.condition.verdict.acceptable else GuestDied(diagnosis, where=guest.name)


def _answers(guest: Guest) -> bool:
    """Return True if the guest runs a program. A channel can be closed on a connection that works."""
    try:
        return guest.run("true", deadline=guest.scaled_deadline(_FENCE_SECONDS)).ok
    except (GuestError, DeadlineExceeded):
        return False


@contextmanager
def replace_loss_by_explanation(guest: Guest) -> Iterator[None]:
    """Replace a GuestError that is raised in this block by what `explain_loss` returns for it."""
    try:
        yield
    except GuestError as lost:
        raise explain_loss(guest, lost) from lost


def _state(guest: Guest, before: str = "") -> tuple[GuestState, int]:
    """Return the guest's state, and how many complaints that its recipe allows its kernel printed.

    Raises KernelComplained for any other complaint that the kernel printed before the state was read.
    """
    traced = may_leave_ftrace_calls(guest.image.recipe)
    command = f"{before}{guest_state.READ_STATE_COMMAND}" + (f"; {guest_state.READ_TRACED_COMMAND}" if traced else "")
    result, printed = guest.run_fenced_script(command, guest.scaled_deadline(_FENCE_SECONDS))
    complaints = read_sorted_complaints(printed, guest.image.recipe.boot_noise, partial(_kernel_log, guest))
    found = complaints.alarming
    if found:
        raise KernelComplained(found, _files(guest))
    _answered[guest] = time.monotonic()
    try:
        return GuestState.parse_listing(result.stdout), len(complaints.allowed)
    except ValueError as error:
        raise GuestError(f"its state cannot be read: {error}: {result}", where=guest.name) from None


def may_leave_ftrace_calls(recipe: Recipe) -> bool:
    """Return True if a probe may leave ftrace's call at its site: a known defect, or a kernel of the user's own.

    The next probe there would find its site unchanged. Such a guest is discarded.
    """
    unknown = recipe.kernel.source in ("tree", "given") and recipe.traits.ftrace_kprobes
    return bool(recipe.defects.gone_stays_on_ftrace) or unknown


def _kernel_log(guest: Guest) -> bytes | None:
    """Return the kernel's own log, or None when the guest does not answer.

    A program that writes to the console or to /dev/kmsg can imitate each byte of a complaint, but it cannot make the
    kernel's log attribute the line to the kernel.
    """
    try:
        log = guest.run_script("dmesg -r", guest.scaled_deadline(_LOG_SECONDS))
    except PinpointError:
        return None
    return log.out if log.ok else None


def _files(guest: Guest) -> dict[str, Path]:
    """Return the files that were shipped to the guest, by module name."""
    return {file.stem: file for file in guest.copied_files.values()}
