"""After each cell: did the kernel complain, was anything left behind, is the guest still what it was?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from harness.core.errors import GuestError, PinpointError
from harness.guest.guest import Guest
from harness.matrix.guests import guest_state, loaded_targets
from harness.matrix.guests.guest_state import State
from harness.verdict.complaints import Complaint, complaints_in
from harness.verdict.liveness import GuestDied, examine
from harness.verdict.symbolize import namer
from harness.verdict.traces import frames
from harness.verdict.verdict import Verdict

# A fence is one SSH round trip and one console line; a guest that cannot do that in this time is lost.
_FENCE_SECONDS = 60.0
# A guest that has just answered reads its log in a second or two.
_LOG_SECONDS = 30.0
# How many lines of stack traces a failure shows.
_MOST_FRAMES = 40
# A program whose connection was closed, or a helper that the kernel called, needs moments to be gone.
GONE_SECONDS = 10.0
_clean: WeakKeyDictionary[Guest, State] = WeakKeyDictionary()


class KernelComplained(Exception):
    """The kernel printed an oops, a warning or worse; below the complaints stand their traces, with lines of source.

    `files` are the files of the modules that were loaded, by name.
    """

    def __init__(self, complaints: Sequence[Complaint], files: Mapping[str, Path]) -> None:
        self.complaints = tuple(complaints)
        told = Counter(str(complaint) for complaint in complaints)
        heads = "; ".join(f"{text} ({times} times)" if times > 1 else text for text, times in told.items())
        traces = dict.fromkeys(
            f"\n    {frame}" for complaint in self.complaints for frame in frames(complaint.lines, files)
        )
        super().__init__(heads + "".join(list(traces)[:_MOST_FRAMES]))

    @property
    def verdict(self) -> Verdict:
        """The worst of what the complaints mean."""
        return max((complaint.verdict for complaint in self.complaints), key=lambda verdict: verdict.severity)


class LeftBehind(AssertionError):
    """The cell left modules, references, kprobes, mounts or processes in the guest, or took some away."""


def begin(guest: Guest) -> str:
    """Note the guest's state before its first cell, and tell what its recipe allowed it to print at boot.

    Raises KernelComplained for what else it complained of.
    """
    _clean[guest] = _state(guest)
    foreseen = complaints_in(guest.console.text(), guest.image.recipe.boot_noise).allowed
    return "; ".join(f"allowed: {complaint}: {noise.why}" for complaint, noise in foreseen)


def end(guest: Guest) -> str:
    """Demand that a cell left the guest as it found it, but for a target module that is kept.

    Gives what, though no fault of the cell, makes the guest another than it was, so that no other cell should have it;
    empty for nothing. Raises KernelComplained or LeftBehind; GuestLost when the guest does not answer. A guest that
    fails here is not used again, so what was clean before the first cell is clean before every one.
    """
    clean, after, deadline = _clean[guest], _state(guest), guest.budget(GONE_SECONDS)
    while clean.more_processes(after) and not deadline.expired:
        after = _state(guest, "sleep 0.1; ")
    changed = clean.changed(after, loaded_targets.modules(guest))
    if changed:
        raise LeftBehind(f"the cell left the guest changed: {', '.join(changed)}")
    return clean.worn(after, guest.image.recipe.machine.memory_mib)


def last_words(guest: Guest, lost: GuestError) -> Exception:
    """Why a guest does not answer: what its kernel complained of, what became of it, or the loss itself."""
    found = complaints_in(guest.console.text(guest.fenced_to), guest.image.recipe.boot_noise).alarming
    if found:
        return KernelComplained(found, _files(guest))
    if guest.heart is None or guest.heart.emulator.stopped:
        return lost
    diagnosis = examine(guest, found, namer(guest))
    return lost if diagnosis.condition.verdict.good else GuestDied(diagnosis, where=guest.name)


@contextmanager
def explained(guest: Guest) -> Iterator[None]:
    """Who loses the guest within this is told why: what `last_words` says."""
    try:
        yield
    except GuestError as lost:
        raise last_words(guest, lost) from lost


def _state(guest: Guest, before: str = "") -> State:
    """What may not change; everything that the kernel printed up to its being read is judged first."""
    result, printed = guest.fenced(f"{before}{guest_state.ASK}", guest.budget(_FENCE_SECONDS))
    found = complaints_in(printed, guest.image.recipe.boot_noise, partial(_kernel_log, guest)).alarming
    if found:
        raise KernelComplained(found, _files(guest))
    try:
        return State.parsed(result.stdout)
    except ValueError as error:
        raise GuestError(f"its state cannot be read: {error}: {result}", where=guest.name) from None


def _kernel_log(guest: Guest) -> bytes | None:
    """The kernel's own log, None when the guest does not return it.

    A program that writes to the console, or to /dev/kmsg, can imitate each byte of a complaint there. It cannot make
    the kernel's log attribute the line to the kernel.
    """
    try:
        log = guest.script("dmesg -r", guest.budget(_LOG_SECONDS))
    except PinpointError:
        return None
    return log.out if log.ok else None


def _files(guest: Guest) -> dict[str, Path]:
    """The files of what was put into the guest, by the name that a module of it has."""
    return {file.stem: file for file in guest.shipped.values()}
