"""The ways to register uprobes: tracefs, a kernel module, perf_event_open. Each takes a file and offsets into it."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.pexpect_over_ssh import Dialogue
from harness.guest.result import parsing_guest_text
from harness.images.user_targets import PERF

MODULE = "user_probe/pinpoint_uprobe"
_REPORT = "/sys/kernel/debug/pinpoint_uprobe/report"
_TRACING = "/sys/kernel/tracing"
EVENTS = f"{_TRACING}/uprobe_events"
_INSTANCE = f"{_TRACING}/instances/pinpoint_user"
_GROUP = "pinpoint_user"
_CUT = "--pinpoint-cut--"
_PERF_S = 60.0


@dataclass(frozen=True)
class Hit:
    """One hit of a site: the process and the address in it.

    The kernel module reports only the last hit of a site in a process; `count` is then the number of hits.
    """

    site_index: int
    pid: int
    address: int
    count: int = 1
    is_return: bool = False


@dataclass(frozen=True)
class OffsetRegistrationResult:
    """The result for one offset: `errno` is positive, 0 if the kernel accepted it; `offset` is what it reports."""

    errno: int
    offset: int


@dataclass(frozen=True)
class Request:
    """A file of the guest and offsets into it; `return_probes` requests return probes.

    `own_process_only` requests uprobes of the registering process alone, which only perf can do.
    `reports_without_registering` is wrong on purpose: probes are reported as registered although none is.
    """

    path: str
    offsets: Sequence[int]
    return_probes: bool = False
    reports_without_registering: bool = False
    own_process_only: bool = False

    @property
    def specs(self) -> list[str]:
        """The offsets in the format that the module and the perf program parse."""
        kind = "r" if self.return_probes else "p"
        return [f"{kind}:{offset:#x}" for offset in self.offsets]


@dataclass
class UprobesByModule:
    """The kernel module pinpoint_uprobe: uprobe_register() with inode and offset."""

    guest: Guest
    consumers_per_site: ClassVar[int] = 1

    @parsing_guest_text("the result of registering uprobes")
    def register_offsets(self, request: Request) -> list[OffsetRegistrationResult]:
        """Load the module. Raises GuestError when it cannot be loaded."""
        words = [
            "insmod",
            self.guest.copy_module(MODULE),
            f"file={request.path}",
            f"unregistered={int(request.reports_without_registering)}",
        ]
        words.append(f"site={','.join(request.specs)}")
        report = self.guest.run_script(f"{shlex.join(words)} && cat {_REPORT}", in_place=True).check().stdout
        lines = [_words(line) for line in report.splitlines() if line.startswith("site=")]
        return [OffsetRegistrationResult(_errno(self.guest, fields), int(fields["offset"], 0)) for fields in lines]

    def read_hits(self) -> list[Hit]:
        """The hits in the module's report."""
        return self._parsed(self.guest.read_text(_REPORT))

    def remove_and_return_hits(self) -> list[Hit]:
        """Read the report and unload the module. Returns all hits."""
        steps = f"cat {_REPORT} && rmmod pinpoint_uprobe"
        return self._parsed(self.guest.run_script(steps, in_place=True).check().stdout)

    @parsing_guest_text("the report of uprobe hits")
    def _parsed(self, report: str) -> list[Hit]:
        found = []
        for line in report.splitlines():
            fields = _words(line)
            if "lost" in fields and fields["lost"] != "0":
                raise GuestError(f"the report lost {fields['lost']} hits: more processes than it has room for")
            if "hit" in fields:
                site, pid = int(fields["hit"]), int(fields["pid"])
                found.append(Hit(site, pid, int(fields["ip"], 16), int(fields["hits"])))
                if int(fields["returns"]):
                    found.append(Hit(site, pid, int(fields["func"], 16), int(fields["returns"]), is_return=True))
        return found


@dataclass
class UprobesByTracefs:
    """tracefs: uprobe_events, an instance of its own, and uprobe_profile."""

    guest: Guest
    consumers_per_site: ClassVar[int] = 1

    @parsing_guest_text("the result of registering uprobes")
    def register_offsets(self, request: Request) -> list[OffsetRegistrationResult]:
        """Define and enable an event for each offset, one by one: the kernel can refuse at either step."""
        steps = [f"mkdir -p {_INSTANCE}"]
        kind = "r" if request.return_probes else "p"
        for index, offset in enumerate(request.offsets):
            define = f"echo '{kind}:{_GROUP}/s{index} {request.path}:{offset:#x}' >>{EVENTS}"
            enable = (
                "true"
                if request.reports_without_registering
                else f"echo 1 >{_INSTANCE}/events/{_GROUP}/s{index}/enable"
            )
            steps.append(f"{{ {define} && {enable}; }} 2>&1; echo done {index} $?")
        steps.append(f"echo {_CUT}; cat {EVENTS}")
        output, _, listing = (
            self.guest.run_script("\n".join(steps), in_place=True).check().stdout.partition(f"{_CUT}\n")
        )
        errors = _errors(output)
        return [
            OffsetRegistrationResult(errors.get(index, 0), _listed(listing, index) or 0)
            for index in range(len(request.offsets))
        ]

    def read_hits(self) -> list[Hit]:
        """The hits in the trace."""
        return self._parsed(self.guest.run_script(f"cat {_INSTANCE}/trace", in_place=True).check().stdout)

    def remove_and_return_hits(self) -> list[Hit]:
        """Read the trace, disable and remove the events and the instance. Returns all hits."""
        steps = (
            f"cat {_INSTANCE}/trace; echo {_CUT}",
            f"[ ! -e {_INSTANCE}/events/{_GROUP} ] || echo 0 >{_INSTANCE}/events/{_GROUP}/enable",
            f"rmdir {_INSTANCE}",
            f"sed -n 's#^[pr]:\\({_GROUP}/[^ ]*\\) .*#-:\\1#p' {EVENTS} | while read -r e; do echo $e >>{EVENTS}; done",
            f"! grep -q {_GROUP}/ {EVENTS}",
        )
        trace = (
            self.guest.run_script("\n".join(steps[:1]) + "\n" + " && ".join(steps[1:]), in_place=True).check().stdout
        )
        return self._parsed(trace.partition(f"{_CUT}\n")[0])

    @parsing_guest_text("the report of uprobe hits")
    def _parsed(self, trace: str) -> list[Hit]:
        """Parse lines `COMM-PID [CPU] FLAGS TIME: s0: (0xIP)`; a return has `(0xRETURN <- 0xFUNCTION)`."""
        found = []
        for line in trace.splitlines():
            match = _TRACED.search(line)
            if match:
                returned = match["function"] is not None
                address = int(match["function"] or match["ip"], 16)
                found.append(Hit(int(match["site"]), int(match["pid"]), address, is_return=returned))
        return found


_TRACED = re.compile(r"-(?P<pid>\d+) .*: s(?P<site>\d+): \((?P<ip>0x[0-9a-f]+)(?: <- (?P<function>0x[0-9a-f]+))?\)")


@dataclass
class UprobesByPerf:
    """perf_event_open(2), through a program that keeps the events open."""

    guest: Guest
    _dialogues: list[Dialogue] = field(default_factory=list)
    _hits: list[Hit] = field(default_factory=list)
    _returns: bool = False

    @property
    def consumers_per_site(self) -> int:
        """An event for all processes counts on one CPU, so each CPU has one, and each registers a uprobe of its own."""
        return self.guest.image.recipe.machine.cpus

    @parsing_guest_text("the result of registering uprobes")
    def register_offsets(self, request: Request) -> list[OffsetRegistrationResult]:
        """Start the program. Raises GuestError when it cannot open any event."""
        self._returns = request.return_probes
        guest, deadline = self.guest, self.guest.scaled_deadline(_PERF_S)
        argv = [
            guest.copy_program(PERF),
            *(["own"] if request.own_process_only else []),
            request.path,
            *([] if request.reports_without_registering else request.specs),
        ]
        dialogue = Dialogue(guest.name, guest.ssh_connection, argv, deadline)
        self._dialogues.append(dialogue)
        found = (
            [OffsetRegistrationResult(0, offset) for offset in request.offsets]
            if request.reports_without_registering
            else []
        )
        while (line := dialogue.read_line(deadline)) != "ready":
            fields = _words(line or "")
            if "errno" not in fields:
                raise GuestError(f"pinpoint_perf: {line or 'has ended'}", where=guest.name)
            found.append(OffsetRegistrationResult(_errno(guest, fields), int(fields["spec"][2:], 0)))
        return found

    def read_hits(self) -> list[Hit]:
        """The hits that the program reported when it ended."""
        return self._hits

    @parsing_guest_text("the report of uprobe hits")
    def remove_and_return_hits(self) -> list[Hit]:
        """End the program, which closes the events. Returns all hits."""
        deadline = self.guest.scaled_deadline(_PERF_S)
        while self._dialogues:
            dialogue = self._dialogues.pop()
            dialogue.close_input()
            while (line := dialogue.read_line(deadline)) is not None:
                fields = _words(line)
                address = int(fields["func" if self._returns else "ip"], 16)
                hit = Hit(int(fields["hit"]), int(fields["pid"]), address, is_return=self._returns)
                self._hits.append(hit)
            dialogue.await_exit_status(deadline)
            dialogue.hang_up()
        return self._hits


# Each class takes a guest. The order of calls: `register_offsets`, then `read_hits` any number of
# times, then `remove_and_return_hits`.
WAYS: dict[str, type[UprobesByModule | UprobesByTracefs | UprobesByPerf]] = {
    "tracefs": UprobesByTracefs,
    "module": UprobesByModule,
    "perf": UprobesByPerf,
}


def _errno(guest: Guest, fields: Mapping[str, str]) -> int:
    """The error number of a report as the host's."""
    return guest.architecture.host_errno(int(fields["errno"]))


def _words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


# What the C library makes of an errno that it does not know: ENOTSUPP of the kernel.
_UNNAMED = re.compile(r"Unknown error (\d+)")
_MESSAGES = {os.strerror(number): number for number in errno.errorcode}


def _errors(output: str) -> dict[int, int]:
    """The errno of each site, from the message that the shell printed before `done INDEX STATUS`."""
    found, message = {}, ""
    for line in output.splitlines():
        if not line.startswith("done "):
            message = line.rpartition(": ")[2]
            continue
        _, index, status = line.split()
        unnamed = _UNNAMED.fullmatch(message)
        if status != "0" and unnamed:
            found[int(index)] = int(unnamed[1])
        elif status != "0":
            if message not in _MESSAGES:
                raise GuestError(f"tracefs refused a uprobe with an unknown message: {message!r}")
            found[int(index)] = _MESSAGES[message]
        message = ""
    return found


def _listed(listing: str, index: int) -> int | None:
    """The offset of an event in uprobe_events, or None if the event is not listed."""
    match = re.search(rf"^[pr]:{_GROUP}/s{index} \S+:(0x[0-9a-f]+)", listing, re.MULTILINE)
    return int(match[1], 16) if match else None
