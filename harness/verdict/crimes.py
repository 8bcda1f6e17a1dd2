"""Crimes that `pinpoint_crimes` commits in a guest on command (probes/crimes_*.c), and what must be read of each."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestLost, PinpointError
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.target import Target
from harness.verdict.complaints import Complaint, allowed, read
from harness.verdict.kinds import Kind
from harness.verdict.liveness import Condition, Diagnosis, examine
from harness.verdict.places import namer

MODULE = "pinpoint_crimes"
_FILE = "/sys/kernel/debug/pinpoint_crimes"
_FENCE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True)
class Crime:
    """One crime: its name, what the kernel may call it, and the place that it must name, where it names one.

    `before` and `after` are shell that makes the kernel notice soon, `seconds` how long what lasts is to last. One that
    `ruins` leaves the kernel in pieces: what else it says is true of it, and no other crime is committed there.
    """

    name: str
    kinds: frozenset[Kind]
    place: str = ""
    before: str = ""
    after: str = ""
    seconds: int = 0
    ruins: bool = False

    @property
    def order(self) -> str:
        """The shell that commits it."""
        commit = f"echo {self.name} {self.seconds} >{_FILE}"
        return "; ".join(part for part in (self.before, commit, self.after) if part)


def _crime(
    name: str,
    *kinds: Kind,
    place: str = "",
    before: str = "",
    after: str = "",
    seconds: int = 0,
    ruins: bool = False,
) -> Crime:
    return Crime(name, frozenset(kinds), place, before, after, seconds, ruins)


_WATCHDOG = "echo 1 >/proc/sys/kernel/watchdog_thresh"
_STALL = "echo 3 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
_SCAN = "echo scan >/sys/kernel/debug/kmemleak"

# What takes moments. Those that no kernel of ours dies of come first, and lockdep before KASAN and oopses: both
# make it stand aside (add_taint(), LOCKDEP_NOW_UNRELIABLE), as a deadlock that it has told of does.
QUICK = (
    _crime("warn", Kind.WARNING, place="probes/crimes_faults.c"),
    _crime("refcount", Kind.WARNING, place="lib/refcount.c"),
    _crime("sleep_atomic", Kind.BUG, place="probes/crimes_misuses.c"),
    _crime("rcu", Kind.LOCKDEP, place="probes/crimes_misuses.c"),
    _crime("lock_order", Kind.LOCKDEP, place="pinpoint_lock_order"),
    _crime("use_after_free", Kind.KASAN, place="pinpoint_use_after_free"),
    _crime("past_the_end", Kind.KASAN, place="pinpoint_past_the_end"),
    # A warning without CONFIG_BUG_ON_DATA_CORRUPTION.
    _crime("list", Kind.BUG, Kind.WARNING, place="lib/list_debug.c"),
    _crime("bug", Kind.BUG, place="probes/crimes_faults.c"),
    _crime("null_read", Kind.FAULT, Kind.KASAN, place="pinpoint_null_read"),
    _crime("panic", Kind.PANIC),
)
# What takes seconds, or a guest for itself.
SLOW = (
    # Before all others: the kernel reports no hung task once it has oopsed (kernel/hung_task.c, 6.1).
    _crime("sleep", Kind.HUNG_TASK, before="echo 1 >/proc/sys/kernel/hung_task_timeout_secs", seconds=5),
    _crime("spin", Kind.LOCKUP, Kind.RCU_STALL, place="pinpoint_spin", before=f"{_WATCHDOG}; {_STALL}", seconds=8),
    _crime("exhaust", Kind.OUT_OF_MEMORY, before="echo 1000 >/proc/self/oom_score_adj"),
    # kmemleak tells it as information, which the console is spared otherwise.
    _crime("leak", Kind.LEAK, before="dmesg -n 7", after=f"sleep 6; {_SCAN}; sleep 1; {_SCAN}"),
    # What comes after these differs: parisc's shell may never come back, arm64 warns of interrupts or faults elsewhere.
    _crime("free_twice", Kind.BUG, Kind.KASAN, ruins=True),
    _crime("schedule_atomic", Kind.BUG, ruins=True),
    _crime("null_write", Kind.FAULT, Kind.KASAN, place="pinpoint_null_write"),
    _crime("poison_read", Kind.FAULT, Kind.KASAN, place="pinpoint_poison_read"),
    _crime("illegal", Kind.FAULT, place="pinpoint_illegal"),
    _crime("divide", Kind.FAULT),
    _crime("interrupt", Kind.FAULT, Kind.KASAN, Kind.PANIC, place="pinpoint_null_read"),
)
# What a crime makes the kernel say later, by exact place: the kernel's own words, and no alarm of the reader's.
_CONSEQUENCES = (
    # arm64: a task that dies of an exception never leaves it, so the nesting is wrong when the CPU next goes idle
    # (ct_kernel_exit(), 6.1: once, seen after every crime that kills a task).
    "kernel/context_tracking.c:128",
)
HANG = _crime("deaf")
RESET = _crime("reset")


@dataclass(frozen=True)
class Outcome:
    """What came of a crime: what was read from the console, what became of the guest, seconds from order to verdict."""

    crime: Crime
    complaints: Sequence[Complaint]
    diagnosis: Diagnosis
    seconds: float

    @property
    def died(self) -> bool:
        """True when the guest is lost."""
        return self.diagnosis.condition not in (Condition.ALIVE, Condition.SLOW, Condition.OOPSED)

    @property
    def done_for(self) -> bool:
        """True when nothing else can be tried on the guest: it is lost, or its kernel in pieces."""
        return self.died or self.crime.ruins

    @property
    def read_right(self) -> bool:
        """True when the kernel's first complaint was read as what was committed, at its place."""
        first = next(iter(self.complaints), None)
        if first is None:
            return not self.crime.kinds
        return first.kind in self.crime.kinds and first.place.startswith(self.crime.place)

    @property
    def false_alarms(self) -> list[Complaint]:
        """What was read beyond what was committed; a panic is what a fault may end in."""
        if self.crime.ruins:
            return []
        expected = self.crime.kinds | {Kind.PANIC}
        return [complaint for complaint in self.complaints if complaint.kind not in expected]

    def __str__(self) -> str:
        read_as = "; ".join(f"{each.kind.value} {each}" for each in self.complaints) or "nothing"
        return f"{self.crime.name}: read as {read_as}; {self.diagnosis} after {self.seconds:.1f} s"


class Criminal:
    """The module in a guest that need not live."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        Target(guest, MODULE).load()
        # Asked while it answers: what names a program counter needs it.
        _ = Layout(guest).slide
        self._possible = guest.read_text(_FILE).split()
        guest.fence(guest.budget(_FENCE_SECONDS))

    def possible(self, crimes: Collection[Crime]) -> list[Crime]:
        """Those that this kernel can notice."""
        return [crime for crime in crimes if crime.name in self._possible]

    def commit(self, crime: Crime) -> Outcome:
        """Commit one and tell what came of it. The shell that commits it may die of it."""
        since, began = self.guest.console.position, time.monotonic()
        try:
            self.guest.script(crime.order)
            printed = self.guest.fence(self.guest.budget(_FENCE_SECONDS))
        except (GuestLost, DeadlineExceeded):
            with suppress(PinpointError):
                end = Deadline.after(_LAST_WORDS_SECONDS)
                self.guest.console.await_line([r"Kernel panic - not syncing[^\n]*\n"], end, since=since)
            printed = self.guest.console.text(since)
        alarming = allowed(read(printed, timed=True), self.guest.image.recipe.boot_noise).alarming
        heard = tuple(complaint for complaint in alarming if complaint.place not in _CONSEQUENCES)
        diagnosis = examine(self.guest, heard, namer(self.guest))
        return Outcome(crime, heard, diagnosis, time.monotonic() - began)
