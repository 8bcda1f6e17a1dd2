"""A guest's heartbeat: while somebody waits for it, its SSH server is asked again and again whether it is there.

An answer takes an interrupt, the network stack, the scheduler and a process of the guest. None for some beats is a
hang: whoever waits is told then, not when the deadline of what it waits for has passed. Beats are as long as this guest
is slow, and what the host did not let it run does not count.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.core.deadline import Deadline
from harness.core.errors import PinpointError
from harness.core.registers import Registers
from harness.guest.emulator import Emulator
from harness.guest.ssh import SshLink
from harness.guest.steal_time import GuestTime

# One beat of a guest of usual speed, in seconds that it was given. A kernel that does not preempt is silent for a
# second or two while it arms a batch of probes; its own soft lockup detector lets it be silent for twenty.
_BEAT = 3.0
# The first is asked when the wait has lasted one beat, so that a hang is told within five.
_UNANSWERED = 3
_LAPS_A_BEAT = 8
# What a guest of usual speed takes for the loop below, in seconds of the CPU. Under emulation, on the machine these
# budgets are from, with guests beside: x86_64 0.013 to 0.02, arm64 0.022, parisc 0.08 to 0.12, thawed or booted.
_USUAL_LOOP = 0.04
LOOP = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); done"
_SAMPLES = 12
_SAMPLE_PAUSE = 0.02


@dataclass(frozen=True)
class Sample:
    """One look at a virtual CPU from outside: its number, its program counter, and whether it takes interrupts."""

    cpu: int
    program_counter: int
    interruptible: bool


@dataclass(frozen=True)
class Silence:
    """What was found when no beat came: how many beats, of how many seconds, and what the CPUs do meanwhile.

    `samples` is empty when QEMU itself does not answer.
    """

    beats: float
    beat_seconds: float
    samples: tuple[Sample, ...]

    def __str__(self) -> str:
        return f"no heartbeat for {self.beats:.1f} beats of {self.beat_seconds:.1f} s"


class Heartbeat:
    """One guest's. `over` is told, once, why the guest will not answer any more."""

    def __init__(self, emulator: Emulator, link: SshLink, registers: Registers, over: Callable[[str], None]) -> None:
        self.emulator = emulator
        self.silence: Silence | None = None
        self.loop_seconds = 0.0
        self.slowest = 0.0
        self.latest = 0.0
        self._link = link
        self._registers = registers
        self._over = over
        self._given = GuestTime(emulator.pid, lambda: emulator.monitor.paused)
        self._news = threading.Condition()
        self._waiting = 0
        link.waiting = self.waiting
        threading.Thread(target=self._watch, name=f"heart {emulator.name}", daemon=True).start()

    @property
    def beat_seconds(self) -> float:
        """The length of a beat, in seconds given to the guest."""
        return _BEAT * self.slowness

    @property
    def slowness(self) -> float:
        """How many times slower this guest is on this host than a usual one, at least 1."""
        return max(1.0, self.loop_seconds / _USUAL_LOOP)

    def calibrate(self, run: Callable[[str], object]) -> None:
        """Measure how fast this guest is on this host: the CPU time that a loop of a known length takes.

        The shorter of two: what else the guest had to do, and what QEMU had to translate, is in the first.
        """
        self.loop_seconds = min(self._timed(run) for _ in range(2))

    def _timed(self, run: Callable[[str], object]) -> float:
        before = self._given.account()[0]
        run(LOOP)
        return self._given.account()[0] - before

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While this lasts somebody waits for the guest."""
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
        """Ask once a beat while the same wait goes on; ends with the connection."""
        while self._link.alive:
            if self._waits_for_a_beat() and not self._answers():
                return

    def _waits_for_a_beat(self) -> bool:
        """True when somebody has waited a beat long."""
        with self._news:
            self._news.wait_for(lambda: self._waiting > 0, self.beat_seconds)
            return self._waiting > 0 and not self._news.wait_for(lambda: self._waiting == 0, self.beat_seconds)

    def _answers(self) -> bool:
        """Ask; True for an answer, or when nobody can be asked any more. Otherwise the guest's end is told."""
        answered = threading.Event()
        threading.Thread(target=self._ask, args=(answered,), name="beat", daemon=True).start()
        self._given.lap()
        silent, beat = 0.0, self.beat_seconds
        while not answered.wait(beat / _LAPS_A_BEAT):
            silent += self._given.lap()
            if silent >= _UNANSWERED * beat:
                self.silence = Silence(1 + silent / beat, beat, self._look())
                self._over(f"the guest hangs: {self.silence}")
                return False
        self.latest = silent + self._given.lap()
        self.slowest = max(self.slowest, self.latest)
        return True

    def _ask(self, answered: threading.Event) -> None:
        with contextlib.suppress(PinpointError):
            self._link.beat()
        answered.set()

    def _look(self) -> tuple[Sample, ...]:
        """Where the CPUs are, a few times over; nothing when QEMU does not answer."""
        found: list[Sample] = []
        pause = threading.Event()
        with contextlib.suppress(PinpointError):
            for _ in range(_SAMPLES):
                found += self._sample(Deadline.after(self.beat_seconds))
                pause.wait(_SAMPLE_PAUSE)
        return tuple(found)

    def _sample(self, deadline: Deadline) -> list[Sample]:
        asked = self.emulator.monitor.execute(
            "human-monitor-command", command_line="info registers -a", deadline=deadline
        )
        return samples(str(asked), self._registers)


def samples(text: str, registers: Registers) -> list[Sample]:
    """One sample of each CPU in what the monitor answers to `info registers -a`."""
    looks = zip(registers.counters(text), registers.interruptible(text), strict=True)
    return [Sample(cpu, counter, takes) for cpu, (counter, takes) in enumerate(looks)]
