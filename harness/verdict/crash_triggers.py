"""The crash triggers that `pinpoint_crash` fires in a guest (probes/crash/*.c), and the complaints expected of each."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from harness.core.errors import DeadlineExceeded, GuestLost, PinpointError
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.target import Target
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint, read_sorted_complaints
from harness.verdict.liveness import Condition, Diagnosis, diagnose_guest
from harness.verdict.symbolize_without_guest import make_symbolizer

MODULE = "pinpoint_crash"
_FILE = "/sys/kernel/debug/pinpoint_crash"
_FENCE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True)
class CrashTrigger:
    """One trigger: its name, the kinds of complaint it may cause, and the place that the kernel must report, if any.

    `commands_before` and `commands_after` are shell commands that make the kernel detect it soon. `stall_seconds` is
    how long a stall lasts. After a trigger that `ruins_kernel`, the kernel is unusable: its further complaints are
    genuine, and no other trigger is fired in that guest. `function_of_bug` is the place on a kernel whose BUG() prints
    no file (MIPS): the function in which the CPU stopped. If `may_lack_file` is true, the kernel has the places of
    BUG() and WARN() in a table without files, and prints either.
    """

    name: str
    expected_kinds: frozenset[ComplaintKind]
    expected_place: str = ""
    commands_before: str = ""
    commands_after: str = ""
    stall_seconds: int = 0
    ruins_kernel: bool = False
    function_of_bug: str = ""
    may_lack_file: bool = False

    @property
    def expected_places(self) -> tuple[str, ...]:
        """How the place may begin that the kernel reports."""
        either = self.may_lack_file and self.function_of_bug
        return (self.expected_place, self.function_of_bug) if either else (self.expected_place,)

    @property
    def fire_commands(self) -> str:
        """The shell commands that fire it."""
        commit = f"echo {self.name} {self.stall_seconds} >{_FILE}"
        return "; ".join(part for part in (self.commands_before, commit, self.commands_after) if part)


def _trigger(
    name: str,
    *kinds: ComplaintKind,
    place: str = "",
    before: str = "",
    after: str = "",
    seconds: int = 0,
    ruins: bool = False,
    function: str = "",
) -> CrashTrigger:
    return CrashTrigger(name, frozenset(kinds), place, before, after, seconds, ruins, function)


_WATCHDOG = "echo 1 >/proc/sys/kernel/watchdog_thresh"
_STALL = "echo 3 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
_SCAN = "echo scan >/sys/kernel/debug/kmemleak"
# A program writes to the console without newlines meanwhile: the kernel's lines begin in the middle of its own.
_CHATTER = "while :; do printf 'words without an end '; done >/dev/console & sleep 1"

# 6.1 and 6.12 name a module's file with the directory that its sources are built in, 6.18 does not
# (Makefile, -fmacro-prefix-map: srctree until 6.12, srcroot in 6.18).
_MODULE_SOURCES = "probes/"

_WARN = _trigger("warn", ComplaintKind.WARNING, place="crash/faults.c", function="pinpoint_warn")
# Triggers that take moments. Those that no kernel of ours dies of come first, and lockdep's before KASAN's and oopses:
# both disable lockdep (add_taint(), LOCKDEP_NOW_UNRELIABLE), and so does a deadlock that lockdep has reported.
QUICK = (
    _WARN,
    replace(_WARN, commands_before=_CHATTER, commands_after="kill $!"),
    _trigger("drop", ComplaintKind.DROPPED),
    _trigger("refcount", ComplaintKind.WARNING, place="lib/refcount.c", function="refcount_warn_saturate"),
    _trigger("sleep_atomic", ComplaintKind.BUG, place="crash/misuses.c"),
    _trigger("rcu", ComplaintKind.LOCKDEP, place="crash/misuses.c"),
    _trigger("lock_order", ComplaintKind.LOCKDEP, place="pinpoint_lock_order"),
    _trigger("use_after_free", ComplaintKind.KASAN, place="pinpoint_use_after_free"),
    _trigger("past_the_end", ComplaintKind.KASAN, place="pinpoint_past_the_end"),
    # A warning without CONFIG_BUG_ON_DATA_CORRUPTION.
    _trigger("list", ComplaintKind.BUG, ComplaintKind.WARNING, place="lib/list_debug.c", function="BUG"),
    _trigger("bug", ComplaintKind.BUG, place="crash/faults.c", function="pinpoint_bug"),
    _trigger("null_read", ComplaintKind.FAULT, ComplaintKind.KASAN, place="pinpoint_null_read"),
    _trigger("panic", ComplaintKind.PANIC),
)
# Triggers that take seconds, or a guest of their own.
SLOW = (
    # Before all others: the kernel reports no hung task once it has oopsed (kernel/hung_task.c, 6.1).
    _trigger("sleep", ComplaintKind.HUNG_TASK, before="echo 1 >/proc/sys/kernel/hung_task_timeout_secs", seconds=5),
    _trigger(
        "spin",
        ComplaintKind.LOCKUP,
        ComplaintKind.RCU_STALL,
        place="pinpoint_spin",
        # SuperH prints the registers of the stalled CPU at level info (show_regs(), arch/sh/kernel/process_32.c, 6.1).
        before=f"{_WATCHDOG}; {_STALL}; dmesg -n 7",
        after="dmesg -n 5",
        seconds=8,
    ),
    _trigger("exhaust", ComplaintKind.OUT_OF_MEMORY, before="echo 1000 >/proc/self/oom_score_adj"),
    # kmemleak logs it at level info, which the console does not show by default.
    _trigger("leak", ComplaintKind.LEAK, before="dmesg -n 7", after=f"sleep 6; {_SCAN}; sleep 1; {_SCAN}"),
    # The consequences of these differ: parisc's shell may never return, arm64 warns of interrupts or faults elsewhere.
    _trigger("free_twice", ComplaintKind.BUG, ComplaintKind.KASAN, ruins=True),
    _trigger("schedule_atomic", ComplaintKind.BUG, ruins=True),
    _trigger("null_write", ComplaintKind.FAULT, ComplaintKind.KASAN, place="pinpoint_null_write"),
    _trigger("poison_read", ComplaintKind.FAULT, ComplaintKind.KASAN, place="pinpoint_poison_read"),
    _trigger("illegal", ComplaintKind.FAULT, place="pinpoint_illegal"),
    _trigger("divide", ComplaintKind.FAULT),
    _trigger("interrupt", ComplaintKind.FAULT, ComplaintKind.KASAN, ComplaintKind.PANIC, place="pinpoint_null_read"),
)
# Later messages caused by a trigger, by exact place. They are genuine kernel output, not false alarms of the parser.
_CONSEQUENCES = (
    # arm64: a task that dies of an exception never leaves it, so the nesting is wrong when the CPU next goes idle
    # (ct_kernel_exit(), 6.1 and 7.3, which warns once; seen after every trigger that kills a task). 7.3 also warns once
    # of the interrupt flags that such a task is scheduled away with (__switch_to()).
    "kernel/context_tracking.c:128",
    "kernel/context_tracking.c:107",
    "arch/arm64/kernel/process.c:738",
    # MIPS and PowerPC with several CPUs: a panic in an interrupt stops the other CPUs with interrupts off
    # (smp_call_function_many_cond(), 6.1).
    "kernel/smp.c:923",
    "smp_call_function_many_cond",
)
HANG = _trigger("deaf")
RESET = _trigger("reset")


@dataclass(frozen=True)
class TriggerResult:
    """The result of a trigger: the complaints read, the state of the guest, and the seconds from command to verdict."""

    trigger: CrashTrigger
    complaints: Sequence[Complaint]
    diagnosis: Diagnosis
    seconds_to_verdict: float

    @property
    def guest_died(self) -> bool:
        """True when the guest is lost."""
        return self.diagnosis.condition not in (Condition.ALIVE, Condition.SLOW, Condition.OOPSED)

    @property
    def is_guest_lost_or_unusable(self) -> bool:
        """True when no other trigger can be fired in the guest: it is lost, or its kernel is unusable."""
        return self.guest_died or self.trigger.ruins_kernel

    @property
    def is_read_correctly(self) -> bool:
        """True when the kernel's first complaint was read as an expected kind and at the expected place."""
        first = next(iter(self.complaints), None)
        if first is None:
            return not self.trigger.expected_kinds
        place = first.source_place.removeprefix(_MODULE_SOURCES)
        return first.kind in self.trigger.expected_kinds and place.startswith(self.trigger.expected_places)

    @property
    def false_alarms(self) -> list[Complaint]:
        """The complaints of unexpected kinds. A panic is always expected, because a fault may end in one."""
        if self.trigger.ruins_kernel:
            return []
        expected = self.trigger.expected_kinds | {ComplaintKind.PANIC}
        return [complaint for complaint in self.complaints if complaint.kind not in expected]

    def __str__(self) -> str:
        read_as = "; ".join(f"{each.kind.value} {each}" for each in self.complaints) or "nothing"
        return f"{self.trigger.name}: read as {read_as}; {self.diagnosis} after {self.seconds_to_verdict:.1f} s"


class CrashModule:
    """The loaded `pinpoint_crash` in a guest that may die."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        Target(guest, MODULE).load()
        # Read while the guest answers: naming a program counter later needs the slide.
        _ = Layout(guest).slide
        self._possible = guest.read_text(_FILE).split()
        guest.read_output_since_fence(guest.scaled_deadline(_FENCE_SECONDS))

    def detectable_triggers(self, triggers: Collection[CrashTrigger]) -> list[CrashTrigger]:
        """Return the triggers that this kernel can detect, with the places that it reports."""
        possible = [trigger for trigger in triggers if trigger.name in self._possible]
        config = self.guest.image.config
        if "CONFIG_GENERIC_BUG" in config or self.guest.architecture.bug_prints_place:
            lacks = config.get("CONFIG_DEBUG_BUGVERBOSE") != "y"
            return [replace(trigger, may_lack_file=lacks) for trigger in possible]
        bugs = [each for each in possible if each.function_of_bug and ComplaintKind.BUG in each.expected_kinds]
        return [replace(each, expected_place=each.function_of_bug) if each in bugs else each for each in possible]

    def fire(self, trigger: CrashTrigger) -> TriggerResult:
        """Fire one trigger and return its result. The shell that fires it may be killed."""
        since, began = self.guest.console.position, time.monotonic()
        try:
            self.guest.run_script(trigger.fire_commands)
            printed = self.guest.read_output_since_fence(self.guest.scaled_deadline(_FENCE_SECONDS))
        except (GuestLost, DeadlineExceeded):
            with suppress(PinpointError):
                end = self.guest.scaled_deadline(_LAST_WORDS_SECONDS)
                self.guest.console.await_line([r"Kernel panic - not syncing[^\n]{0,1024}\n"], end, since=since)
            printed = self.guest.console.text(since)
        alarming = read_sorted_complaints(printed, self.guest.image.recipe.boot_noise).alarming
        reported = tuple(complaint for complaint in alarming if complaint.source_place not in _CONSEQUENCES)
        diagnosis = diagnose_guest(self.guest, reported, make_symbolizer(self.guest))
        return TriggerResult(trigger, reported, diagnosis, time.monotonic() - began)
