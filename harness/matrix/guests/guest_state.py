"""The state of a guest before its first cell, and what a cell changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.landing.probe_module import KPROBES_LIST

_MODULES = "/proc/modules"
_UPROBES = "/sys/kernel/tracing/uprobe_events"
_MOUNTS = "/proc/mounts"
_TAINT = "/proc/sys/kernel/tainted"
_MEMORY = "/proc/meminfo"
# How often the kernel warned and oopsed: unlike the taint, a second warning is counted, too. Since 6.2, and in Debian's
# 6.1.192 (kernel/panic.c, kernel/exit.c). A kernel that has neither file shows only new taint.
_CRASH_COUNTS = {"/sys/kernel/warn_count": "warn_count", "/sys/kernel/oops_count": "oops_count"}
# The kernel's own threads have empty command lines, so grep prints nothing for them.
READ_STATE_COMMAND = (
    f"grep -sH '' {_MODULES} {KPROBES_LIST} {_UPROBES} {_MOUNTS} {_TAINT} {_MEMORY}"
    f" {' '.join(_CRASH_COUNTS)} /proc/[0-9]*/cmdline"
)
_TRACED = "/sys/kernel/tracing/enabled_functions"
# ftrace looks at each of its sites to print these few lines, so it is read only where a kernel may leave calls behind.
READ_TRACED_COMMAND = f"grep -sH '' {_TRACED}"

# The letter of each bit of the taint (Documentation/admin-guide/tainted-kernels.rst, 6.1).
_TAINTS = "PFSRMBUDAWCIOELKXTN"
# Out of tree and unsigned: all our modules are, and the kernel never clears these bits.
_OURS = frozenset("OE")
# The kernel sets these when it died or warned, and for a bad page, a locked-up processor or a machine check. Each time
# it also prints a complaint (callers of add_taint(), 6.1).
_CRASHES = frozenset("DWBLM")
# The guest's slab may grow by this share of its memory (1/8). The slab of a healthy parisc guest grows by 50 KiB a
# round trip, because QEMU 7.2's firmware makes each object take 32 KiB; that of x86_64 hardly grows.
_SLAB_SHARE = 8


@dataclass(frozen=True)
class GuestState:
    """The state of a guest.

    `modules_probes_mounts` describes each module, kprobe and mount; `taint` has the kernel's letters; `slab_kib` is in
    KiB; `crash_counts` has the kernel's counts of warnings and oopses, if it has them; `traced` names the functions
    in which ftrace calls a handler, if the guest was asked.
    """

    modules_probes_mounts: Counter[str]
    processes: Counter[str]
    taint: frozenset[str]
    slab_kib: int
    crash_counts: Counter[str] = field(default_factory=Counter)
    traced: frozenset[str] = frozenset()

    @classmethod
    def parse_listing(cls, listing: str) -> GuestState:
        """Parse the output of the command `READ_STATE_COMMAND`. Raises ValueError for a listing that was cut."""
        try:
            return cls._parsed(listing)
        except IndexError:
            raise ValueError("a line of it was cut") from None

    @classmethod
    def _parsed(cls, listing: str) -> GuestState:
        things: Counter[str] = Counter()
        processes: Counter[str] = Counter()
        crash_counts: Counter[str] = Counter()
        traced: set[str] = set()
        taint, slab = None, 0
        for line in listing.splitlines():
            path, _, text = line.partition(":")
            if path == _TAINT:
                taint = _letters(int(text))
            elif path == _MEMORY:
                slab = int(text.split()[1]) if text.startswith("Slab:") else slab
            elif path in _CRASH_COUNTS:
                crash_counts[_CRASH_COUNTS[path]] = int(text)
            elif path == _TRACED:
                traced.add(text.partition(" (")[0])
            elif path.endswith("/cmdline"):
                processes[f"process {text.partition(chr(0))[0]}"] += 1
            else:
                things[_thing(path, text)] += 1
        if taint is None:
            raise ValueError(f"no {_TAINT} in it")
        return cls(things, processes, taint, slab, crash_counts, frozenset(traced))

    def added_processes(self, after: GuestState) -> Counter[str]:
        """Return the processes that were added. A process of ours that ended does not count; it is started again."""
        return after.processes - self.processes

    def list_changes(self, after: GuestState, kept: Iterable[str]) -> list[str]:
        """List what was added and what was removed; the modules in `kept` are expected additions."""
        before = self.modules_probes_mounts + Counter(_module(name, "0") for name in kept)
        came = (after.modules_probes_mounts - before) + self.added_processes(after)
        return sorted(
            [*came.elements(), *(f"no {thing}" for thing in (before - after.modules_probes_mounts).elements())]
        )

    def unexplained_crashes(self, after: GuestState, complaints: int) -> str:
        """Return the new warnings and oopses that this number of kernel complaints cannot explain; empty for none.

        New taint shows them, and so do the kernel's counts when the taint was already set.
        """
        counted = after.crash_counts - self.crash_counts
        if counted.total() > complaints:
            return ", ".join(f"{number} more in {name}" for name, number in sorted(counted.items()))
        taint = "".join(sorted((after.taint - self.taint) & _CRASHES))
        return f"new taint {taint}" if taint and not complaints else ""

    def discard_reason(self, after: GuestState, memory_mib: int) -> str:
        """Return why the guest must be discarded although the cell did nothing wrong; empty when it need not be.

        The reasons are new taint, much more slab, and ftrace's calls that the kernel left behind.
        """
        taint = "".join(sorted(after.taint - self.taint - _OURS))
        more = (after.slab_kib - self.slab_kib) >> 10
        found = [f"taint {taint}"] if taint else []
        found += [f"{more} MiB more of slab"] if more > memory_mib // _SLAB_SHARE else []
        found += [f"ftrace's call in {name}" for name in sorted(after.traced - self.traced)]
        return ", ".join(found)


def _thing(path: str, text: str) -> str:
    match path:
        case "/proc/modules":
            name, _, references, *_ = text.split()
            return _module(name, references)
        case "/proc/mounts":
            what, where, *_ = text.split()
            return f"mount {what} on {where}"
    return f"uprobe {text}" if path == _UPROBES else f"kprobe {text}"


def _module(name: str, references: str) -> str:
    return f"module {name}" if references == "0" else f"module {name} with {references} references"


def _letters(taint: int) -> frozenset[str]:
    return frozenset(letter for bit, letter in enumerate(_TAINTS) if taint >> bit & 1)
