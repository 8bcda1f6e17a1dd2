"""What a guest is before its first cell, and what a cell made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from harness.landing.probe_module import KPROBES_LIST

_MODULES = "/proc/modules"
_MOUNTS = "/proc/mounts"
_TAINT = "/proc/sys/kernel/tainted"
_MEMORY = "/proc/meminfo"
# The kernel's own threads have empty command lines, so grep passes over them.
ASK = f"grep -sH '' {_MODULES} {KPROBES_LIST} {_MOUNTS} {_TAINT} {_MEMORY} /proc/[0-9]*/cmdline"

# What each bit of the taint is called (Documentation/admin-guide/tainted-kernels.rst, 6.1).
_TAINTS = "PFSRMBUDAWCIOELKXTN"
# Out of tree and unsigned: every module of ours is, and the kernel never takes it back.
_OURS = frozenset("OE")
# Of its memory, what a guest's slab may grow by. A healthy parisc's grows by 50 KiB a round trip, for QEMU 7.2's
# firmware makes each object take 32 KiB; x86_64's hardly moves.
_SLAB_SHARE = 8


@dataclass(frozen=True)
class State:
    """What is in a guest, each thing in words, processes apart; its taint, in the kernel's letters; its slab in KiB."""

    things: Counter[str]
    processes: Counter[str]
    taint: frozenset[str]
    slab: int

    @classmethod
    def parsed(cls, listing: str) -> State:
        """From what `ASK` prints. Raises ValueError for a listing that was cut."""
        things: Counter[str] = Counter()
        processes: Counter[str] = Counter()
        taint, slab = None, 0
        for line in listing.splitlines():
            path, _, told = line.partition(":")
            if path == _TAINT:
                taint = _letters(int(told))
            elif path == _MEMORY:
                slab = int(told.split()[1]) if told.startswith("Slab:") else slab
            elif path.endswith("/cmdline"):
                processes[f"process {told.partition(chr(0))[0]}"] += 1
            else:
                things[_thing(path, told)] += 1
        if taint is None:
            raise ValueError(f"no {_TAINT} in it")
        return cls(things, processes, taint, slab)

    def more_processes(self, after: State) -> Counter[str]:
        """The processes that came. One of ours that ended is no change: it is begun again."""
        return after.processes - self.processes

    def changed(self, after: State, kept: Iterable[str]) -> list[str]:
        """What is there afterwards and was not before, or the other way; the modules in `kept` have come."""
        before = self.things + Counter(_module(name, "0") for name in kept)
        came = (after.things - before) + self.more_processes(after)
        return sorted([*came.elements(), *(f"no {thing}" for thing in (before - after.things).elements())])

    def worn(self, after: State, memory_mib: int) -> str:
        """What makes the guest another one without anybody's fault, empty for nothing: more taint, much more slab."""
        taint = "".join(sorted(after.taint - self.taint - _OURS))
        more = (after.slab - self.slab) >> 10
        found = [f"taint {taint}"] if taint else []
        found += [f"{more} MiB more of slab"] if more > memory_mib // _SLAB_SHARE else []
        return ", ".join(found)


def _thing(path: str, told: str) -> str:
    match path:
        case "/proc/modules":
            name, _, references, *_ = told.split()
            return _module(name, references)
        case "/proc/mounts":
            what, where, *_ = told.split()
            return f"mount {what} on {where}"
    return f"kprobe {told}"


def _module(name: str, references: str) -> str:
    return f"module {name}" if references == "0" else f"module {name} with {references} references"


def _letters(taint: int) -> frozenset[str]:
    return frozenset(letter for bit, letter in enumerate(_TAINTS) if taint >> bit & 1)
