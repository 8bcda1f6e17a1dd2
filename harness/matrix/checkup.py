"""After each cell: did the kernel complain, and was anything left behind?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from harness.core.deadline import Deadline
from harness.core.errors import GuestError, PinpointError
from harness.guest.guest import Guest
from harness.matrix import kept
from harness.verdict.complaints import Complaint, Sorted, allowed, confirmed, read
from harness.verdict.liveness import GuestDied, examine
from harness.verdict.places import namer
from harness.verdict.traces import frames
from harness.verdict.words import Verdict

# A fence is one SSH round trip and one console line; a guest that cannot do that in this time is lost.
_FENCE_SECONDS = 60.0
# A guest that has just answered reads its log in a second or two.
_LOG_SECONDS = 30.0
# How many lines of stack traces a failure shows.
_MOST_FRAMES = 40
# What a cell may not change: the loaded modules and the listed kprobes.
_MODULES = "/proc/modules"
_PRINT_STATE = f"grep -H '' {_MODULES} /sys/kernel/debug/kprobes/list"
_clean: WeakKeyDictionary[Guest, tuple[str, ...]] = WeakKeyDictionary()


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
    """The cell left modules or kprobes in the guest."""


def begin(guest: Guest) -> str:
    """Note the guest's state before its first cell, and tell what its recipe allowed it to print at boot.

    Raises KernelComplained for what else it complained of.
    """
    _clean[guest] = _state(guest)
    foreseen = _sorted(guest, guest.console.text()).allowed
    return "; ".join(f"allowed: {complaint}: {noise.why}" for complaint, noise in foreseen)


def end(guest: Guest) -> None:
    """Demand that a cell left the guest as it found it, but for a target module that is kept.

    Raises KernelComplained or LeftBehind; GuestLost when the guest does not answer. A guest that fails here is not used
    again, so what was clean before the first cell is clean before every one.
    """
    after, expected = sorted(_state(guest)), sorted([*_clean[guest], *kept.modules(guest)])
    if after != expected:
        changed = sorted(set(after) ^ set(expected))
        raise LeftBehind(f"the cell left the guest changed: {', '.join(changed)}")


def last_words(guest: Guest, lost: GuestError) -> Exception:
    """Why a guest does not answer: what its kernel complained of, what became of it, or the loss itself."""
    found = _alarming(guest, guest.console.text(guest.fenced_to))
    if found:
        return KernelComplained(found, _files(guest))
    if guest.heart is None or guest.heart.emulator.stopped:
        return lost
    diagnosis = examine(guest, found, namer(guest))
    return lost if diagnosis.condition.verdict.good else GuestDied(diagnosis, where=guest.name)


def _state(guest: Guest) -> tuple[str, ...]:
    """What may not change; everything that the kernel printed up to its being read is judged first."""
    result, printed = guest.fenced(_PRINT_STATE, Deadline.after(_FENCE_SECONDS))
    found = _borne_out(guest, _alarming(guest, printed))
    if found:
        raise KernelComplained(found, _files(guest))
    # 1 is that nothing is loaded and nothing probed.
    return tuple(map(_what_stays, (result if result.rc == 1 else result.check()).stdout.splitlines()))


def _borne_out(guest: Guest, heard: Sequence[Complaint]) -> Sequence[Complaint]:
    """Those of a console's complaints that the kernel's own log has too; all, from a guest that cannot tell any more.

    A program that writes to the console, or to /dev/kmsg, can imitate each byte of a complaint there, but not that the
    kernel's log has it from the kernel.
    """
    if not heard:
        return heard
    try:
        log = guest.script("dmesg -r", Deadline.after(_LOG_SECONDS))
    except PinpointError:
        return heard
    return confirmed(heard, log.out) if log.ok else heard


def _what_stays(line: str) -> str:
    """A module's name without its reference count, or a listed kprobe as it is."""
    path, _, told = line.partition(":")
    return told.split()[0] if path == _MODULES else told


def _files(guest: Guest) -> dict[str, Path]:
    """The files of what was put into the guest, by the name that a module of it has."""
    return {file.stem: file for file in guest.shipped.values()}


def _alarming(guest: Guest, text: str) -> tuple[Complaint, ...]:
    return _sorted(guest, text).alarming


def _sorted(guest: Guest, text: str) -> Sorted:
    # Every kernel of ours prints times; without them a program's forged panic would pass for one.
    return allowed(read(text, timed=True), guest.image.recipe.boot_noise)
