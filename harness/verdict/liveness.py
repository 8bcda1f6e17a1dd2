"""Is a guest alive, and if not, what became of it: heartbeat, QMP's events, console and SSH read together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from harness.core.errors import GuestLost
from harness.guest.guest import Guest
from harness.guest.heartbeat import Heartbeat, Sample
from harness.verdict.complaints import Complaint
from harness.verdict.verdict import Verdict

# How many places of a hanging CPU are reported, the most frequent first.
_TOLD_AT_MOST = 4


class Condition(Enum):
    """What a guest can be found to be."""

    BOOTING = "booting"
    ALIVE = "alive"
    SLOW = "slow"
    """Its last heartbeat took longer than a beat."""
    PANICKED = "panicked"
    """The kernel stopped or reset itself, with a panic or without a message."""
    OOPSED = "oopsed but alive"
    SOFT_HANG = "soft hang"
    """No process answers, but interrupts come through."""
    HARD_HANG = "hard hang"
    """No CPU takes interrupts any more."""
    QEMU_DIED = "QEMU died"
    OUR_FAULT = "our fault"
    """QEMU does not answer, or the connection broke, while nothing is known against the guest."""

    @property
    def verdict(self) -> Verdict:
        """What a cell ends in that lost its guest so."""
        return _VERDICTS.get(self, Verdict.PASS)


_VERDICTS = {
    Condition.BOOTING: Verdict.BOOT_FAIL,
    Condition.PANICKED: Verdict.PANIC,
    Condition.OOPSED: Verdict.OOPS,
    Condition.SOFT_HANG: Verdict.HANG,
    Condition.HARD_HANG: Verdict.HANG,
    Condition.QEMU_DIED: Verdict.HARNESS_ERROR,
    Condition.OUR_FAULT: Verdict.HARNESS_ERROR,
}
_STOPPED = ("SHUTDOWN", "GUEST_PANICKED")


@dataclass(frozen=True)
class Diagnosis:
    """A guest's condition, and on what evidence, in one line."""

    condition: Condition
    evidence: str

    def __str__(self) -> str:
        return f"{self.condition.value}: {self.evidence}" if self.evidence else self.condition.value


class GuestDied(GuestLost):
    """A guest that was lost, with what became of it."""

    def __init__(self, diagnosis: Diagnosis, *, where: str) -> None:
        super().__init__(str(diagnosis), where=where)
        self.diagnosis = diagnosis

    @property
    def verdict(self) -> Verdict:
        """What the cell ends in."""
        return self.diagnosis.condition.verdict


def examine(guest: Guest, complaints: Sequence[Complaint], name: Callable[[int], str] = hex) -> Diagnosis:
    """What became of a guest, from what is known without a request to it.

    `complaints` are those on its console that are no known noise; `name` formats an address as symbol + offset. The
    strongest evidence comes first: a QEMU that is gone explains all the rest, a reset explains the silence.
    """
    heart = guest.heart
    if heart is None:
        return Diagnosis(Condition.BOOTING, "no SSH connection yet")
    said = "; ".join(str(complaint) for complaint in complaints)
    stopped = next((event for event in guest.monitor.events() if event.name in _STOPPED), None)
    if stopped is not None:
        how = f"{stopped.name} {stopped.data.get('reason', '')}".strip()
        return Diagnosis(Condition.PANICKED, said or f"{how}, without a message")
    if heart.emulator.status is not None or guest.monitor.gone:
        return Diagnosis(Condition.QEMU_DIED, _how_it_ended(heart))
    if heart.silence is not None:
        return _silent(heart, name)
    if not guest.link.alive:
        return Diagnosis(Condition.OUR_FAULT, "the SSH connection broke while QEMU runs on and no heartbeat is missing")
    if said:
        return Diagnosis(Condition.OOPSED, said)
    if heart.latest > heart.beat_seconds:
        return Diagnosis(Condition.SLOW, f"the last beat took {heart.latest:.1f} s")
    return Diagnosis(Condition.ALIVE, "")


def _how_it_ended(heart: Heartbeat) -> str:
    status = heart.emulator.status
    how = "it closed its monitor" if status is None else f"status {status}" if status >= 0 else f"signal {-status}"
    return f"{how}: {heart.emulator.said() or 'it said nothing'}"


def _silent(heart: Heartbeat, name: Callable[[int], str]) -> Diagnosis:
    """A hang, soft where any look found a CPU that takes interrupts; ours, where QEMU itself does not answer."""
    assert heart.silence is not None
    samples = heart.silence.samples
    if not samples:
        return Diagnosis(Condition.OUR_FAULT, f"{heart.silence}, and QEMU's monitor does not answer either")
    soft = any(sample.interruptible for sample in samples)
    return Diagnosis(Condition.SOFT_HANG if soft else Condition.HARD_HANG, f"{heart.silence}; {_places(samples, name)}")


def _places(samples: Sequence[Sample], name: Callable[[int], str]) -> str:
    """Where each CPU was seen, and how often: `CPU 0 at 9/12 spin+0x4 [mod], 3/12 ...`."""
    parts = []
    for cpu in sorted({sample.cpu for sample in samples}):
        seen = [name(sample.program_counter) for sample in samples if sample.cpu == cpu]
        counted = Counter(seen).most_common(_TOLD_AT_MOST)
        parts.append(f"CPU {cpu} at " + ", ".join(f"{place} ({times}/{len(seen)})" for place, times in counted))
    return "; ".join(parts)
