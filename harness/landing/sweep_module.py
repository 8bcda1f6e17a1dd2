"""pinpoint_sweep in a guest: thousands of kprobes registered in one go, reported, removed."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.landing import probe
from harness.landing.probe import ListedProbe, SiteReport, parse_list

MODULE = "pinpoint_sweep"
_DIRECTORY = f"/sys/kernel/debug/{MODULE}"
_LIST = "/sys/kernel/debug/kprobes/list"
_SITES = "/tmp/pinpoint_sites"
_CUT = "--pinpoint-cut--"
# With ftrace off, a kprobe on ftrace's site only notes what is to be patched; turned on, it patches all in one go
# (ftrace_ops_update_code(), ftrace_startup_sysctl(), kernel/trace/ftrace.c, 6.1). Kernels without ftrace lack the file.
_IN_ONE_GO = """
f=/proc/sys/kernel/ftrace_enabled
[ ! -e $f ] || echo 0 >$f
echo {word} >{directory}/do; rc=$?
[ ! -e $f ] || echo 1 >$f
[ $rc = 0 ] || exit $rc
"""
_OPTIMIZATION = "/proc/sys/debug/kprobes-optimization"


class Listing:
    """Entries of the kprobes list, found by address."""

    def __init__(self, probes: Iterable[ListedProbe]) -> None:
        self._probes = sorted(probes, key=lambda each: each.address)
        self._addresses = [each.address for each in self._probes]

    def near(self, address: int) -> list[ListedProbe]:
        """The entries closest to an address on either side, none of an empty list."""
        place = bisect_left(self._addresses, address)
        return self._probes[max(0, place - 1) : place + 1]

    def __len__(self) -> int:
        return len(self._probes)


@dataclass(frozen=True)
class Batch:
    """What became of one batch: a report a site, in the order asked for, and what the kernel lists beyond before."""

    reports: Sequence[SiteReport]
    listing: Listing


@dataclass(frozen=True)
class Spent:
    """Seconds that the guest's own clock counted for registering a batch and for removing it."""

    registering: float
    removing: float


class SweepModule:
    """The module, loaded in a guest with jump optimisation off; nothing is undone by itself, the guest may be dead."""

    def __init__(self, guest: Guest, parameters: Sequence[str] = ()) -> None:
        self.guest = guest
        self._parameters = parameters
        self._recorder = 0
        self._optimization = ""
        self._standing: Collection[ListedProbe] = ()

    def load(self) -> None:
        """insmod. Raises GuestError when the kernel refuses."""
        self._standing = probe.standing(self.guest)
        self.guest.run("insmod", self.guest.ship(MODULE), *self._parameters).check()
        # An optimised probe is patched twice, by a worker, some ticks after it was armed.
        look = f"[ ! -e {_OPTIMIZATION} ] || {{ cat {_OPTIMIZATION}; echo 0 >{_OPTIMIZATION}; }}"
        self._optimization = self.guest.script(f"{look}").check().stdout.strip()
        self._recorder = self._read_head()[2]

    def unload(self) -> None:
        """rmmod, which removes what is still registered, and jump optimisation as it was."""
        restore = f"echo {self._optimization} >{_OPTIMIZATION}" if self._optimization else "true"
        self.guest.script(f"rmmod {MODULE} && {restore}").check()

    def resolve(self, specs: Sequence[str], deadline: Deadline) -> Batch:
        """Register every spec disabled, read what became of it, and remove all. Raises GuestError."""
        self._write(specs, deadline)
        view = self.guest.script(f"echo resolve >{_DIRECTORY}/do && {_LOOK}; echo remove >{_DIRECTORY}/do", deadline)
        return self._batch(specs, view.check().stdout)

    def arm(self, specs: Sequence[str], deadline: Deadline) -> Batch:
        """Register every spec and leave the breakpoints standing. Raises GuestError."""
        self._write(specs, deadline)
        arm = _IN_ONE_GO.format(word="arm", directory=_DIRECTORY)
        return self._batch(specs, self.guest.script(arm + _LOOK, deadline).check().stdout)

    def remove(self, specs: Sequence[str], deadline: Deadline) -> Batch:
        """Remove what is standing; the reports have all hits, the listing is what is left."""
        remove = _IN_ONE_GO.format(word="remove", directory=_DIRECTORY)
        return self._batch(specs, self.guest.script(remove + _LOOK, deadline).check().stdout)

    def spent(self) -> Spent:
        """What the last batch cost in the guest."""
        registering, removing, _ = self._read_head()
        return Spent(registering / 1e9, removing / 1e9)

    def last_words(self) -> list[int]:
        """Numbers in the batch of the sites last handed to the kernel and last hit, read from outside.

        To be asked of a guest that no longer answers; raises GuestError when its memory cannot be read either.
        """
        order = "<" if Elf.kept(self.guest.image.vmlinux).little_endian else ">"
        return list(struct.unpack(f"{order}II", self.guest.memory.read(self._recorder, 8)))

    def _write(self, specs: Sequence[str], deadline: Deadline) -> None:
        self.guest.put("".join(f"{spec}\n" for spec in specs).encode(), _SITES, deadline=deadline)
        self.guest.script(f"cat {_SITES} >{_DIRECTORY}/sites", deadline).check()

    def _read_head(self) -> tuple[int, int, int]:
        registering, removing, recorder = self.guest.run("head", "-n1", f"{_DIRECTORY}/report").check().stdout.split()
        return int(registering), int(removing), int(recorder, 16)

    def _batch(self, specs: Sequence[str], text: str) -> Batch:
        report, _, listing = text.partition(f"{_CUT}\n")
        reports = [_report(spec, line) for spec, line in zip(specs, report.splitlines()[1:], strict=True)]
        return Batch(reports, Listing(each for each in parse_list(listing) if each not in self._standing))


_LOOK = f"cat {_DIRECTORY}/report && echo {_CUT} && cat {_LIST}"


def _report(spec: str, line: str) -> SiteReport:
    number, address, hits, ip = line.split()
    return SiteReport(spec, int(number), int(address, 16), int(hits), int(ip, 16))
