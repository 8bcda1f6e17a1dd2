"""A guest's heartbeat: periodic requests to its SSH server while a caller waits for the guest.

A reply needs an interrupt, the network stack, the scheduler and a process of the guest. No reply for several beats is a
hang. The waiting caller then fails at once, before its own deadline. The length of a beat scales with the guest's
measured speed, and time in which the host did not run the guest does not count.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.core.deadline import Deadline
from harness.core.errors import HostError, PinpointError
from harness.core.qemu_registers import RegisterParser
from harness.guest.qemu_process import QemuProcess
from harness.guest.ssh import SshConnection
from harness.guest.steal_time import GuestTime

# One beat of a guest of usual speed, in seconds of guest run time. A kernel without preemption does not reply for a
# second or two while it arms a batch of probes; its own soft lockup detector allows twenty seconds.
_BEAT = 3.0
# The first request is sent when the wait has lasted one beat, so that a hang is reported within five beats.
_UNANSWERED = 3
_LAPS_A_BEAT = 8
# CPU time of the loop below in a guest of usual speed, in seconds. Measured under emulation, on the machine where these
# budgets were set, with other guests running: x86_64 0.013 to 0.02, arm64 0.022, parisc 0.08 to 0.12, thawed or
# booted.
_USUAL_LOOP = 0.04
LOOP = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); done"
_SAMPLES = 12
_SAMPLE_PAUSE = 0.02
# How long QEMU's monitor may take to print the registers of a guest that has just booted.
_SAMPLE_SECONDS = 30.0


@dataclass(frozen=True)
class CpuRegisterSample:
    """State of a virtual CPU, read from the host: its number, its program counter, and its interrupt flag."""

    cpu: int
    program_counter: int
    interruptible: bool


@dataclass(frozen=True)
class MissedHeartbeatsRecord:
    """A missing heartbeat: the number of beats, the length of a beat in seconds, and samples of the CPUs.

    `cpu_register_samples` is empty when QEMU itself does not reply.
    """

    missed_beats: float
    beat_seconds: float
    cpu_register_samples: tuple[CpuRegisterSample, ...]

    def __str__(self) -> str:
        return f"no heartbeat for {self.missed_beats:.1f} beats of {self.beat_seconds:.1f} s"


class Heartbeat:
    """The heartbeat of one guest; `over` is called once with the reason when the guest no longer replies."""

    def __init__(
        self, emulator: QemuProcess, link: SshConnection, registers: RegisterParser, over: Callable[[str], None]
    ) -> None:
        self.emulator = emulator
        self.silence: MissedHeartbeatsRecord | None = None
        self.loop_seconds = 0.0
        self.slowest = 0.0
        self.latest = 0.0
        self._link = link
        self._registers = registers
        self._over = over
        self._given = GuestTime(emulator.pid, lambda: emulator.monitor.is_guest_paused)
        self._news = threading.Condition()
        self._waiting = 0
        link.waiting = self.mark_as_waiting
        threading.Thread(target=self._watch, name=f"heart {emulator.name}", daemon=True).start()

    @property
    def beat_seconds(self) -> float:
        """Length of a beat, in seconds of guest run time."""
        return _BEAT * self.slowness

    @property
    def slowness(self) -> float:
        """Ratio of this guest's loop time on this host to the usual one, at least 1."""
        return max(1.0, self.loop_seconds / _USUAL_LOOP)

    def calibrate(self, run: Callable[[str], object]) -> None:
        """Measure this guest's speed on this host: the CPU time of a loop of known length.

        The shorter of two measurements counts: the first includes other work of the guest and translation by QEMU.
        Raises HostError if QEMU's registers cannot be read: a hang could not be reported later.
        """
        self._sample(Deadline.after(_SAMPLE_SECONDS))
        self.loop_seconds = min(self._timed(run) for _ in range(2))

    def _timed(self, run: Callable[[str], object]) -> float:
        before = self._given.run_and_wait_seconds()[0]
        run(LOOP)
        return self._given.run_and_wait_seconds()[0] - before

    @contextlib.contextmanager
    def mark_as_waiting(self) -> Iterator[None]:
        """Mark the block as a wait for the guest."""
        with self._news:
            self._waiting += 1
            self._news.notify_all()
        try:
            yield
        finally:
            with self._news:
                self._waiting -= 1
                self._news.notify_all()

    def _watch(self) -> None:
        """Send one request per beat while the same wait lasts; return when the connection ends."""
        while self._link.alive:
            if self._waits_for_a_beat() and not self._answers():
                return

    def _waits_for_a_beat(self) -> bool:
        """Return True when one wait has lasted a full beat."""
        with self._news:
            self._news.wait_for(lambda: self._waiting > 0, self.beat_seconds)
            return self._waiting > 0 and not self._news.wait_for(lambda: self._waiting == 0, self.beat_seconds)

    def _answers(self) -> bool:
        """Send a request; return True on a reply or on a closed connection, else report the hang and return False."""
        answered = threading.Event()
        threading.Thread(target=self._ask, args=(answered,), name="beat", daemon=True).start()
        self._given.seconds_since_last_call()
        silent, beat = 0.0, self.beat_seconds
        while not answered.wait(beat / _LAPS_A_BEAT):
            silent += self._given.seconds_since_last_call()
            if silent >= _UNANSWERED * beat:
                self.silence = MissedHeartbeatsRecord(1 + silent / beat, beat, self._look())
                self._over(f"the guest hangs: {self.silence}")
                return False
        self.latest = silent + self._given.seconds_since_last_call()
        self.slowest = max(self.slowest, self.latest)
        return True

    def _ask(self, answered: threading.Event) -> None:
        with contextlib.suppress(PinpointError):
            self._link.send_keepalive()
        answered.set()

    def _look(self) -> tuple[CpuRegisterSample, ...]:
        """Return several samples of each CPU; empty if QEMU does not reply."""
        found: list[CpuRegisterSample] = []
        pause = threading.Event()
        with contextlib.suppress(PinpointError):
            for _ in range(_SAMPLES):
                found += self._sample(Deadline.after(self.beat_seconds))
                pause.wait(_SAMPLE_PAUSE)
        return tuple(found)

    def _sample(self, deadline: Deadline) -> list[CpuRegisterSample]:
        reply = self.emulator.monitor.execute(
            "human-monitor-command", command_line="info registers -a", deadline=deadline
        )
        return parse_cpu_register_samples(str(reply), self._registers)


def parse_cpu_register_samples(text: str, registers: RegisterParser) -> list[CpuRegisterSample]:
    """Return one sample of each CPU in the monitor's output of `info registers -a`.

    Raises HostError if the output lacks a program counter or an interrupt flag: QEMU's format has changed.
    """
    counters, flags = registers.parse_program_counters(text), registers.parse_interrupt_flags(text)
    if not counters or len(counters) != len(flags):
        what = f"QEMU's `info registers` has {len(counters)} program counters and {len(flags)} interrupt flags"
        raise HostError(what, mend="correct the architecture's register_parser for this version of QEMU")
    looks = zip(counters, flags, strict=True)
    return [CpuRegisterSample(cpu, counter, takes) for cpu, (counter, takes) in enumerate(looks)]
