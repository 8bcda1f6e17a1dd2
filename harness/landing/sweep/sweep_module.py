"""The module pinpoint_sweep in a guest: registers, reports and removes thousands of kprobes at once."""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.core.worker_threads import WorkerThreads
from harness.guest.guest import Guest
from harness.guest.result import Result, parsing_guest_text
from harness.landing import probe_module
from harness.landing.probe_module import KPROBES_LIST, SEPARATOR, ListedProbe, SiteReport, parse_kprobe_list

MODULE = "pinpoint_sweep"
_DIRECTORY = f"/sys/kernel/debug/{MODULE}"
_SITES = "/tmp/pinpoint_sites"
_LOOK = f"cat {_DIRECTORY}/report && echo {SEPARATOR} && cat {KPROBES_LIST}"
_PAUSE = 0.02
# While ftrace is off, registering a kprobe on an ftrace site only records what to patch; turning ftrace on patches all
# sites at once (ftrace_ops_update_code(), ftrace_startup_sysctl(), kernel/trace/ftrace.c, 6.1). Kernels without ftrace
# do not have the file. Probes that are removed in this way leave flags in ftrace's records, for which the kernel warns
# when the last probe is removed later (ftrace_shutdown(), kernel/trace/ftrace.c:3089, 6.1.192). It is therefore only
# used in guests that do nothing else. It saves no time for a few sites, as mutants have in the row's own guest.
_IN_ONE_GO = """
f=/proc/sys/kernel/ftrace_enabled
[ ! -e $f ] || echo 0 >$f
echo {word} >{directory}/do; rc=$?
[ ! -e $f ] || echo 1 >$f
[ $rc = 0 ] || exit $rc
"""
_ONE_BY_ONE = "echo {word} >{directory}/do || exit\n"
_FEW = 50
# Settings that are off while a sweep runs. Optimization: a worker would patch each probe a second time, some ticks
# after it was armed. Watchdog: it complains if one registration takes 20 s. This happens because some symbols at the
# borders of x86's text are followed by over a megabyte of padding, which can_optimize() (arch/x86/kernel/kprobes/opt.c,
# 6.1) decodes to the end.
_OFF = ("/proc/sys/debug/kprobes-optimization", "/proc/sys/kernel/soft_watchdog")

_Seen = TypeVar("_Seen")


def _doing(word: str, specs: Sequence[str]) -> str:
    return (_IN_ONE_GO if len(specs) > _FEW else _ONE_BY_ONE).format(word=word, directory=_DIRECTORY)


class KprobesListing:
    """Entries of the kprobes list, found by address."""

    def __init__(self, probes: Iterable[ListedProbe]) -> None:
        self._probes = sorted(probes, key=lambda each: each.address)
        self._addresses = [each.address for each in self._probes]

    def nearest_entries(self, address: int) -> list[ListedProbe]:
        """The entries closest to an address on either side; empty if the list is empty."""
        place = bisect_left(self._addresses, address)
        return self._probes[max(0, place - 1) : place + 1]

    def __len__(self) -> int:
        return len(self._probes)


@dataclass(frozen=True)
class BatchReport:
    """The result of one batch.

    `reports` has one report for each site, in the order of the request. `listing` has the probes that the kernel lists,
    without those that it listed before.
    """

    reports: Sequence[SiteReport]
    listing: KprobesListing


class SweepModule:
    """The sweep module in one guest. The caller loads and unloads it, since a dead guest cannot unload anything."""

    def __init__(self, guest: Guest, parameters: Sequence[str] = ()) -> None:
        self.guest = guest
        self._parameters = parameters
        self._recorder = 0
        self._were: dict[str, str] = {}
        self._listed_before: Collection[ListedProbe] = ()

    @property
    def addresses_listed_before(self) -> set[int]:
        """The addresses of the probes that the kernel listed before the module was loaded."""
        return {each.address for each in self._listed_before}

    def load(self) -> None:
        """Load the module and turn off the settings of _OFF. Raises GuestError if the kernel refuses."""
        self._listed_before = probe_module.read_kprobe_list(self.guest)
        self.guest.run("insmod", self.guest.copy_module(MODULE), *self._parameters).check()
        off = "; ".join(
            f"[ ! -e {setting} ] || {{ echo {setting} $(cat {setting}); echo 0 >{setting}; }}" for setting in _OFF
        )
        lines = self.guest.run_script(off).check().stdout.splitlines()
        with parsing_guest_text("the settings of kprobes"):
            self._were = {line.split()[0]: line.split()[1] for line in lines}
        self._recorder = self._read_head()[2]

    def unload(self) -> None:
        """Unload the module, which removes its remaining probes, and restore the settings of _OFF."""
        restore = [f"echo {value} >{setting}" for setting, value in self._were.items()]
        self.guest.run_script(" && ".join([f"rmmod {MODULE}", *restore])).check()

    def register_disabled(self, specs: Sequence[str], deadline: Deadline) -> BatchReport:
        """Register every spec disabled, read the reports and the list, and remove all. Raises GuestError."""
        self._write(specs, deadline)
        view = self.guest.run_script(
            f"echo resolve >{_DIRECTORY}/do && {_LOOK}; echo remove >{_DIRECTORY}/do", deadline
        )
        return self._batch(specs, view.check().stdout)

    def register_armed(self, specs: Sequence[str], deadline: Deadline) -> BatchReport:
        """Register every spec and leave the breakpoints in place. Raises GuestError."""
        self._write(specs, deadline)
        arm = _doing("arm", specs)
        return self._batch(specs, self.guest.run_script(arm + _LOOK, deadline).check().stdout)

    def register_armed_and_hold_guest(
        self, specs: Sequence[str], look: Callable[[], _Seen], deadline: Deadline
    ) -> tuple[BatchReport, _Seen]:
        """Arm every spec while nothing else runs in the guest, call `look` from outside, and disable the probes.

        Raises GuestError if the guest does not hold the probes for long enough to look.
        """
        self._write(specs, deadline)
        with WorkerThreads(1) as pool:
            answer = pool.submit(self.guest.run_script, f"echo hold >{_DIRECTORY}/do && {_LOOK}", deadline)
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

    def remove_probes(self, specs: Sequence[str], deadline: Deadline) -> BatchReport:
        """Remove the registered probes; the reports have all hits, the listing has the probes that are left."""
        remove = _doing("remove", specs)
        return self._batch(specs, self.guest.run_script(remove + _LOOK, deadline).check().stdout)

    def read_flight_recorder(self) -> list[int]:
        """The indexes in the batch of the site last passed to the kernel and the site last hit, read from outside.

        It is for a guest that no longer responds. Raises GuestError if its memory cannot be read either.
        """
        return self._recorded()[:2]

    def _recorded(self) -> list[int]:
        """The fields of the flight recorder (struct pinpoint_flight_recorder, probes/sweep/sweep.h)."""
        form = struct.Struct(f"{Elf.read_cached(self.guest.image.vmlinux).struct_order}III")
        return list(form.unpack(self.guest.memory.read(self._recorder, form.size)))

    def _write(self, specs: Sequence[str], deadline: Deadline) -> None:
        self.guest.put("".join(f"{spec}\n" for spec in specs).encode(), _SITES, deadline=deadline)
        self.guest.run_script(f"cat {_SITES} >{_DIRECTORY}/sites", deadline).check()

    @parsing_guest_text("the sweep module's report")
    def _read_head(self) -> tuple[int, int, int]:
        registering, removing, recorder = self.guest.run("head", "-n1", f"{_DIRECTORY}/report").check().stdout.split()
        return int(registering), int(removing), int(recorder, 16)

    @parsing_guest_text("the sweep module's report")
    def _batch(self, specs: Sequence[str], text: str) -> BatchReport:
        report, _, listing = text.partition(f"{SEPARATOR}\n")
        host_errno = self.guest.architecture.host_errno
        reports = [_report(spec, line, host_errno) for spec, line in zip(specs, report.splitlines()[1:], strict=True)]
        listed = probe_module.without_one_for_each(parse_kprobe_list(listing), self._listed_before)
        return BatchReport(reports, KprobesListing(listed))


def _report(spec: str, line: str, host_errno: Callable[[int], int]) -> SiteReport:
    number, address, hits, ip = line.split()
    return SiteReport(spec, host_errno(int(number)), int(address, 16), int(hits), int(ip, 16))
