"""pinpoint_sweep in a guest: thousands of kprobes registered in one go, reported, removed."""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import Result, readable
from harness.landing import probe_module
from harness.landing.probe_module import KPROBES_LIST, SEPARATOR, ListedProbe, SiteReport, parse_list

MODULE = "pinpoint_sweep"
_DIRECTORY = f"/sys/kernel/debug/{MODULE}"
_SITES = "/tmp/pinpoint_sites"
_LOOK = f"cat {_DIRECTORY}/report && echo {SEPARATOR} && cat {KPROBES_LIST}"
_PAUSE = 0.02
# With ftrace off, a kprobe on ftrace's site only notes what is to be patched; turned on, it patches all in one go
# (ftrace_ops_update_code(), ftrace_startup_sysctl(), kernel/trace/ftrace.c, 6.1). Kernels without ftrace lack the file.
# What is removed so leaves flags in ftrace's records, of which the kernel warns when later the last probe goes
# (ftrace_shutdown(), kernel/trace/ftrace.c:3089, 6.1.192): it is for guests that are used for nothing else. A few
# sites, as mutants have in the row's own guest, gain nothing by it.
_IN_ONE_GO = """
f=/proc/sys/kernel/ftrace_enabled
[ ! -e $f ] || echo 0 >$f
echo {word} >{directory}/do; rc=$?
[ ! -e $f ] || echo 1 >$f
[ $rc = 0 ] || exit $rc
"""
_ONE_BY_ONE = "echo {word} >{directory}/do || exit\n"
_FEW = 50
# What is off while a sweep runs. An optimised probe is patched twice, by a worker, some ticks after it was armed. The
# watchdog complains of one registration that takes 20 s: symbols at the borders of x86's text are followed by a
# megabyte of padding and more, which can_optimize() (arch/x86/kernel/kprobes/opt.c, 6.1) decodes to the end.
_OFF = ("/proc/sys/debug/kprobes-optimization", "/proc/sys/kernel/soft_watchdog")

_Seen = TypeVar("_Seen")


def _doing(word: str, specs: Sequence[str]) -> str:
    return (_IN_ONE_GO if len(specs) > _FEW else _ONE_BY_ONE).format(word=word, directory=_DIRECTORY)


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
    """The module, loaded in a guest that leaves it in peace; nothing is undone by itself, the guest may be dead."""

    def __init__(self, guest: Guest, parameters: Sequence[str] = ()) -> None:
        self.guest = guest
        self._parameters = parameters
        self._recorder = 0
        self._were: dict[str, str] = {}
        self._standing: Collection[ListedProbe] = ()

    @property
    def standing(self) -> set[int]:
        """Addresses of the probes that the kernel listed before."""
        return {each.address for each in self._standing}

    def load(self) -> None:
        """insmod. Raises GuestError when the kernel refuses."""
        self._standing = probe_module.standing(self.guest)
        self.guest.run("insmod", self.guest.ship(MODULE), *self._parameters).check()
        off = "; ".join(
            f"[ ! -e {setting} ] || {{ echo {setting} $(cat {setting}); echo 0 >{setting}; }}" for setting in _OFF
        )
        lines = self.guest.script(off).check().stdout.splitlines()
        with readable("the settings of kprobes"):
            self._were = {line.split()[0]: line.split()[1] for line in lines}
        self._recorder = self._read_head()[2]

    def unload(self) -> None:
        """rmmod, which removes what is still registered; what was turned off is as it was."""
        restore = [f"echo {value} >{setting}" for setting, value in self._were.items()]
        self.guest.script(" && ".join([f"rmmod {MODULE}", *restore])).check()

    def resolve(self, specs: Sequence[str], deadline: Deadline) -> Batch:
        """Register every spec disabled, read what became of it, and remove all. Raises GuestError."""
        self._write(specs, deadline)
        view = self.guest.script(f"echo resolve >{_DIRECTORY}/do && {_LOOK}; echo remove >{_DIRECTORY}/do", deadline)
        return self._batch(specs, view.check().stdout)

    def arm(self, specs: Sequence[str], deadline: Deadline) -> Batch:
        """Register every spec and leave the breakpoints standing. Raises GuestError."""
        self._write(specs, deadline)
        arm = _doing("arm", specs)
        return self._batch(specs, self.guest.script(arm + _LOOK, deadline).check().stdout)

    def hold(self, specs: Sequence[str], look: Callable[[], _Seen], deadline: Deadline) -> tuple[Batch, _Seen]:
        """Arm every spec while nothing else runs in the guest, and look at it from outside; they are disabled after.

        Raises GuestError when the guest does not hold them for long enough to look.
        """
        self._write(specs, deadline)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.guest.script, f"echo hold >{_DIRECTORY}/do && {_LOOK}", deadline)
            seen = self._while_held(look, answer)
            return self._batch(specs, answer.result().check().stdout), seen

    def _while_held(self, look: Callable[[], _Seen], answer: Future[Result]) -> _Seen:
        while not answer.done():
            if self._recorded()[2]:
                seen = look()
                if self._recorded()[2]:
                    return seen
            time.sleep(_PAUSE)
        answer.result().check()
        raise GuestError("the batch was not held for long enough to be looked at", where=self.guest.name)

    def remove(self, specs: Sequence[str], deadline: Deadline) -> Batch:
        """Remove what is standing; the reports have all hits, the listing is what is left."""
        remove = _doing("remove", specs)
        return self._batch(specs, self.guest.script(remove + _LOOK, deadline).check().stdout)

    def spent(self) -> Spent:
        """What the last batch cost in the guest."""
        registering, removing, _ = self._read_head()
        return Spent(registering / 1e9, removing / 1e9)

    def last_words(self) -> list[int]:
        """Numbers in the batch of the sites last handed to the kernel and last hit, read from outside.

        For a guest that no longer answers; raises GuestError when its memory cannot be read either.
        """
        return self._recorded()[:2]

    def _recorded(self) -> list[int]:
        """The flight recorder: struct pinpoint_flight_recorder, probes/sweep/sweep.h."""
        form = struct.Struct(f"{Elf.kept(self.guest.image.vmlinux).struct_order}III")
        return list(form.unpack(self.guest.memory.read(self._recorder, form.size)))

    def _write(self, specs: Sequence[str], deadline: Deadline) -> None:
        self.guest.put("".join(f"{spec}\n" for spec in specs).encode(), _SITES, deadline=deadline)
        self.guest.script(f"cat {_SITES} >{_DIRECTORY}/sites", deadline).check()

    @readable("the sweep module's report")
    def _read_head(self) -> tuple[int, int, int]:
        registering, removing, recorder = self.guest.run("head", "-n1", f"{_DIRECTORY}/report").check().stdout.split()
        return int(registering), int(removing), int(recorder, 16)

    @readable("the sweep module's report")
    def _batch(self, specs: Sequence[str], text: str) -> Batch:
        report, _, listing = text.partition(f"{SEPARATOR}\n")
        reports = [_report(spec, line) for spec, line in zip(specs, report.splitlines()[1:], strict=True)]
        return Batch(reports, Listing(each for each in parse_list(listing) if each not in self._standing))


def _report(spec: str, line: str) -> SiteReport:
    number, address, hits, ip = line.split()
    return SiteReport(spec, int(number), int(address, 16), int(hits), int(ip, 16))
