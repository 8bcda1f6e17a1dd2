"""The state of a guest, alive or dead, from its heartbeat, QMP events, console and SSH together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from harness.core.errors import GuestLost
from harness.guest.guest import Guest
from harness.guest.heartbeat import CpuRegisterSample, Heartbeat
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint

# How many places of a hanging CPU are reported, the most frequent first.
_MOST_PLACES = 4


class Condition(Enum):
    """The possible states of a guest."""

    BOOTING = "booting"
    ALIVE = "alive"
    SLOW = "slow"
    """Its last heartbeat took longer than the interval between two."""
    PANICKED = "panicked"
    """The kernel stopped or reset itself, with a panic or without a message, or it panicked and is silent.

    Or its CPU entered the error state, of which QEMU aborts.
    """
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
        """The verdict of a cell whose guest was found in this state."""
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
    """A guest's condition, and its evidence in one line.

    Of a guest that hangs, `cpu_addresses` has the program counter of each sample of a CPU.
    """

    condition: Condition
    evidence: str
    cpu_addresses: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.condition.value}: {self.evidence}" if self.evidence else self.condition.value


class GuestDied(GuestLost):
    """A guest was lost; `diagnosis` is its condition."""

    def __init__(self, diagnosis: Diagnosis, *, where: str) -> None:
        super().__init__(str(diagnosis), where=where)
        self.diagnosis = diagnosis

    @property
    def verdict(self) -> Verdict:
        """The verdict of the cell."""
        return self.diagnosis.condition.verdict


def diagnose_guest(guest: Guest, complaints: Sequence[Complaint], name: Callable[[int], str] = hex) -> Diagnosis:
    """Diagnose a guest without a request to it.

    `complaints` are the complaints on its console other than known noise. `name` formats an address as symbol + offset.
    The strongest evidence is checked first: a reset explains the silence, and a QEMU that has exited explains the rest.
    """
    heart = guest.heartbeat
    if heart is None:
        return Diagnosis(Condition.BOOTING, "no SSH connection yet")
    printed = "; ".join(dict.fromkeys(map(str, complaints)))
    stopped = next((event for event in guest.monitor.events() if event.name in _STOPPED), None)
    if stopped is not None:
        how = f"{stopped.name} {stopped.data.get('reason', '')}".strip()
        return Diagnosis(Condition.PANICKED, printed or f"{how}, without a message")
    if heart.emulator.exit_status is not None or guest.monitor.gone:
        ended, error_state = _how_it_ended(heart), guest.architecture.qemu_machine.cpu_error_state
        if error_state and error_state in ended:
            return Diagnosis(Condition.PANICKED, ended[: ended.index(error_state) + len(error_state)])
        return Diagnosis(Condition.QEMU_DIED, ended)
    if heart.silence is not None:
        if any(complaint.kind is ComplaintKind.PANIC for complaint in complaints):
            return Diagnosis(Condition.PANICKED, f"{printed}; {heart.silence}")
        return _silent(heart, name)
    if not guest.ssh_connection.alive:
        return Diagnosis(Condition.OUR_FAULT, "the SSH connection broke while QEMU runs on and no heartbeat is missing")
    if printed:
        return Diagnosis(Condition.OOPSED, printed)
    if heart.latest > heart.beat_seconds:
        return Diagnosis(Condition.SLOW, f"the last beat took {heart.latest:.1f} s")
    return Diagnosis(Condition.ALIVE, "")


def _how_it_ended(heart: Heartbeat) -> str:
    status = heart.emulator.exit_status
    how = "it closed its monitor" if status is None else f"status {status}" if status >= 0 else f"signal {-status}"
    return f"{how}: {heart.emulator.qemu_messages() or 'it printed nothing'}"


def _silent(heart: Heartbeat, name: Callable[[int], str]) -> Diagnosis:
    """Diagnose a silent guest: a soft hang if any sample shows a CPU that takes interrupts, else a hard hang.

    If QEMU itself does not answer, it is not the guest's fault.
    """
    assert heart.silence is not None
    samples = heart.silence.cpu_register_samples
    if not samples:
        return Diagnosis(Condition.OUR_FAULT, f"{heart.silence}, and QEMU's monitor does not answer either")
    soft = any(sample.interruptible for sample in samples)
    return Diagnosis(
        Condition.SOFT_HANG if soft else Condition.HARD_HANG,
        f"{heart.silence}; {_places(samples, name)}",
        tuple(sample.program_counter for sample in samples),
    )


def _places(samples: Sequence[CpuRegisterSample], name: Callable[[int], str]) -> str:
    """Return where each CPU was seen, and how often: `CPU 0 at spin+0x4 [mod] (9/12), ...`."""
    parts = []
    for cpu in sorted({sample.cpu for sample in samples}):
        seen = [name(sample.program_counter) for sample in samples if sample.cpu == cpu]
        counted = Counter(seen).most_common(_MOST_PLACES)
        parts.append(f"CPU {cpu} at " + ", ".join(f"{place} ({times}/{len(seen)})" for place, times in counted))
    return "; ".join(parts)
