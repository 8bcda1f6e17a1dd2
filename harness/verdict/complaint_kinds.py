"""The kinds of kernel complaints, and the first line of each as 6.1 prints it (and later kernels, where they differ).

All patterns are anchored at the start of a record, after the subsystem's own prefix if it has one. The same words in
the middle of a record are not a complaint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from harness.verdict.cell_verdict_enum import Verdict


class ComplaintKind(Enum):
    """A kind of complaint."""

    PANIC = "panic"
    FAULT = "fault"
    """The kernel met an exception it cannot handle: Oops, Internal error, general protection, parisc's traps."""
    BUG = "BUG"
    WARNING = "WARNING"
    KASAN = "KASAN"
    """KASAN, KCSAN, KMSAN, KFENCE or UBSAN."""
    LOCKDEP = "lockdep"
    RCU_STALL = "RCU stall"
    LOCKUP = "lockup"
    HUNG_TASK = "hung task"
    OUT_OF_MEMORY = "out of memory"
    LEAK = "memory leak"
    DROPPED = "dropped messages"
    """Records that the kernel's console never printed: a complaint may be among them."""
    TRACE = "stack trace"
    """A backtrace that nothing else introduced."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of a cell whose guest printed this."""
        return _VERDICTS.get(self, Verdict.OOPS)


_VERDICTS = {
    ComplaintKind.PANIC: Verdict.PANIC,
    ComplaintKind.RCU_STALL: Verdict.HANG,
    ComplaintKind.LOCKUP: Verdict.HANG,
    ComplaintKind.HUNG_TASK: Verdict.HANG,
}


@dataclass(frozen=True)
class Opening:
    """A pattern for the first line of a complaint.

    If a complaint of a kind in `part_of_kinds` is open, the line is part of it; otherwise the line opens a new
    complaint. A `unspecific` opening is unspecific: the next opening of the same event gives the complaint its kind and
    headline. If the pattern can begin with any text, `required_literal` is a literal that the line must contain. It is
    searched first, so that a flooded console is cheap to read.
    """

    kind: ComplaintKind
    pattern: str
    part_of_kinds: frozenset[ComplaintKind] = frozenset()
    unspecific: bool = False
    required_literal: str = ""


_CRASHING = frozenset({ComplaintKind.FAULT, ComplaintKind.BUG})
_ANY = frozenset(ComplaintKind)

# In order: the first match determines the kind.
OPENINGS = (
    Opening(ComplaintKind.PANIC, r"Kernel panic - not syncing"),
    Opening(ComplaintKind.PANIC, r"traps: PANIC: "),
    # mm/kasan/report.c, kernel/kcsan, mm/kmsan, mm/kfence, lib/ubsan.c
    Opening(ComplaintKind.KASAN, r"BUG: (?:KASAN|KCSAN|KMSAN|KFENCE): "),
    Opening(ComplaintKind.KASAN, r"UBSAN: "),
    Opening(ComplaintKind.FAULT, r"KASAN: .+ in range \[", _CRASHING),
    # kernel/locking/lockdep.c
    Opening(
        ComplaintKind.LOCKDEP,
        r"WARNING: (?:possible |inconsistent lock state|bad (?:unlock balance|contention) detected|held lock freed"
        r"|Nested lock was not taken|lock held when returning|suspicious RCU usage|chain_key collision"
        r"|\S+-safe -> \S+-unsafe lock order|.{1,40} still has locks held)",
    ),
    Opening(ComplaintKind.LOCKDEP, r"\[ BUG: Invalid wait context \]"),
    Opening(ComplaintKind.LOCKDEP, r"INFO: trying to register non-static key"),
    # kernel/watchdog.c, kernel/watchdog_hld.c, kernel/workqueue.c
    Opening(ComplaintKind.LOCKUP, r"(?:watchdog: )?BUG: soft lockup - "),
    Opening(
        ComplaintKind.LOCKUP,
        r"(?:(?:NMI )?watchdog: )?(?:Watchdog detected hard LOCKUP|CPU\d+: Watchdog detected hard LOCKUP)",
    ),
    Opening(ComplaintKind.LOCKUP, r"(?:workqueue: )?BUG: workqueue lockup - "),
    # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
    Opening(ComplaintKind.RCU_STALL, r"(?:rcu: )?INFO: \S+ (?:self-detected stall|detected (?:expedited )?stalls)"),
    Opening(
        ComplaintKind.RCU_STALL,
        r"(?:rcu: )?\S+ kthread (?:starved for|timer wakeup didn't happen)",
        frozenset({ComplaintKind.RCU_STALL}),
        required_literal=" kthread ",
    ),
    # kernel/hung_task.c
    Opening(ComplaintKind.HUNG_TASK, r"INFO: task .{1,40} blocked (?:for more than|in I/O wait|on )"),
    # mm/oom_kill.c
    Opening(ComplaintKind.OUT_OF_MEMORY, r".{1,40} invoked oom-killer: ", required_literal=" invoked oom-killer: "),
    Opening(
        ComplaintKind.OUT_OF_MEMORY,
        r"(?:Out of memory|Memory cgroup out of memory): Killed process",
        frozenset({ComplaintKind.OUT_OF_MEMORY}),
    ),
    Opening(ComplaintKind.LEAK, r"kmemleak: \d+ new suspected memory leak"),
    # kernel/printk/printk.c
    Opening(ComplaintKind.DROPPED, r"\*\* \d+ printk messages dropped \*\*"),
    # arch/x86/mm/fault.c; arch/powerpc/mm/fault.c, which has a capital letter; arch/arm64/mm/fault.c and others
    Opening(
        ComplaintKind.FAULT,
        r"BUG: (?:[kK]ernel NULL pointer dereference|[uU]nable to handle|(?:\S+ )?stack guard page)",
    ),
    Opening(ComplaintKind.FAULT, r"(?:CPU \d+ )?Unable to handle kernel "),
    Opening(ComplaintKind.FAULT, r"Insufficient stack space to handle exception"),
    Opening(ComplaintKind.FAULT, r"Kernel stack overflow\."),  # kernel_stack_overflow(), arch/s390/kernel/traps.c
    # arch/x86/kernel/dumpstack.c, __die_header(): `general protection fault: 0000 [#1] SMP`; Oops: 0002 [#1]
    Opening(
        ComplaintKind.FAULT, r"[A-Za-z][\w .,:()/+-]{1,120}: [0-9a-f]{4,16} \[#\d+\]", _CRASHING, required_literal=" [#"
    ),
    # mips and loongarch, for BUG(): do_trap_or_bp(), arch/mips/kernel/traps.c. No line names the file.
    Opening(ComplaintKind.BUG, r"Kernel bug detected ?\[#\d+\]", _CRASHING),
    # die() of riscv (`Oops [#1]`, `Oops - BUG [#1]`), mips and loongarch (`Oops[#1]:`),
    # powerpc (`Oops: Kernel access of bad area, sig: 11 [#1]`) and s390 (`illegal operation: 0001 ilc:1 [#1]`).
    Opening(ComplaintKind.FAULT, r"(?:Oops|Kernel BUG)(?: - .{1,60}|: .{1,80})? ?\[#\d+\]", _CRASHING),
    Opening(
        ComplaintKind.FAULT, r"[a-z][\w -]{1,80}: [0-9a-f]{4} ilc:\d \[#\d+\]", _CRASHING, required_literal=" ilc:"
    ),
    # die() of mips and loongarch with the reason: `Break instruction in kernel code[#1]:`, `do_reserved exception[#1]:`
    Opening(ComplaintKind.FAULT, r"[A-Za-z][\w .:!/-]{1,80}\[#\d+\]:$", _CRASHING, required_literal="[#"),
    Opening(ComplaintKind.FAULT, r"Internal error: ", _CRASHING),
    Opening(ComplaintKind.FAULT, r"SError Interrupt on CPU"),
    # do_DataAbort() and do_PrefetchAbort(), arch/arm/mm/fault.c
    Opening(ComplaintKind.FAULT, r"Unhandled (?:fault|prefetch abort): "),
    # arch/parisc/kernel/traps.c: parisc_terminate(); die_if_kernel(), which names an address only for user space
    Opening(
        ComplaintKind.FAULT,
        r".{1,60}: Code=\d+ \(.{1,80}\) at addr [0-9a-f]",
        _CRASHING | {ComplaintKind.TRACE},
        required_literal=": Code=",
    ),
    Opening(ComplaintKind.FAULT, r".{1,20} \(pid \d+\): .{1,80} \(code -?\d+\)$", _CRASHING, required_literal=" (pid "),
    Opening(ComplaintKind.FAULT, r"die_if_kernel\(\) recursion detected", _CRASHING),
    Opening(ComplaintKind.FAULT, r"\s*< Your System ate a SPARC! Gah! >", _CRASHING, unspecific=True),
    # die_if_kernel(), arch/sparc/kernel/traps_64.c: a picture, then `insmod(42): Kernel illegal instruction [#1]`
    Opening(
        ComplaintKind.FAULT,
        r".{1,20}\(\d+\): .{1,60} \[#\d+\]$",
        _CRASHING | {ComplaintKind.TRACE},
        required_literal=" [#",
    ),
    Opening(ComplaintKind.FAULT, r"\s*\\\|/ ____ \\\|/", _CRASHING, unspecific=True),
    Opening(ComplaintKind.FAULT, r"OOPS: Bogus kernel PC ", _CRASHING),  # bad_kernel_pc(), arch/sparc/mm/fault_64.c
    # A register dump alone: address space 0 is the kernel's; user space's faults print the same dump.
    Opening(ComplaintKind.FAULT, r"IASQ: 0+ 0+ IAOQ: ", _ANY, unspecific=True),
    # lib/bug.c, include/asm-generic/bug.h, the many `BUG: ` of mm, sched and locking; mm/slub.c: `BUG kmalloc-64 (...`
    Opening(ComplaintKind.BUG, r"[kK]ernel BUG at "),
    Opening(ComplaintKind.BUG, r"BUG(?:: | at |\s\S+ \()"),
    # fs/sysfs/dir.c, sysfs_warn_dup(): a backtrace follows.
    Opening(ComplaintKind.WARNING, r"sysfs: cannot create duplicate filename "),
    # kernel/panic.c, __warn(); since 6.18 `WARNING: FILE:LINE at FUNCTION, CPU#0`
    Opening(ComplaintKind.WARNING, r"WARNING: "),
    Opening(ComplaintKind.WARNING, r"-+\[ cut here \]-+", unspecific=True),
    Opening(ComplaintKind.TRACE, r"\s*(?:Call Trace:|Call trace:|Backtrace:|Stack trace:)", _ANY, unspecific=True),
    # ARM's traces have no heading (unwind_backtrace(), arch/arm/kernel/unwind.c, 6.1); this is the first line.
    Opening(ComplaintKind.TRACE, r"\s*unwind_backtrace from ", _ANY, unspecific=True),
)

_ANCHORED = tuple(opening for opening in OPENINGS if not opening.required_literal)
_FLOATING = tuple((opening, re.compile(opening.pattern)) for opening in OPENINGS if opening.required_literal)
_ANY_ANCHORED = re.compile("|".join(f"(?P<o{index}>{opening.pattern})" for index, opening in enumerate(_ANCHORED)))


def opening_of(text: str) -> Opening | None:
    """Return the opening that a record matches, or None."""
    match = _ANY_ANCHORED.match(text)
    if match:
        return _ANCHORED[int(str(match.lastgroup)[1:])]
    for opening, pattern in _FLOATING:
        if opening.required_literal in text and pattern.match(text):
            return opening
    return None
