"""The ways to register uprobes: tracefs, a kernel module, perf_event_open. Each takes a file and offsets into it."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.interactive_process import Dialogue
from harness.images.user_targets import PERF

MODULE = "user_probe/pinpoint_uprobe"
_REPORT = "/sys/kernel/debug/pinpoint_uprobe/report"
_TRACING = "/sys/kernel/tracing"
EVENTS = f"{_TRACING}/uprobe_events"
_PROFILE = f"{_TRACING}/uprobe_profile"
_INSTANCE = f"{_TRACING}/instances/pinpoint_user"
_GROUP = "pinpoint_user"
_CUT = "--pinpoint-cut--"
_PERF_S = 60.0


@dataclass(frozen=True)
class Hit:
    """One hit, or, of the kernel module, the last of `times`: in which process, and at which address of it."""

    site: int
    pid: int
    address: int
    times: int = 1
    returned: bool = False


@dataclass(frozen=True)
class Registered:
    """What became of one offset: `errno` is positive, 0 where the kernel took it; `offset` what the kernel reports."""

    errno: int
    offset: int


@dataclass(frozen=True)
class Request:
    """A file of the guest and offsets into it; `returns` asks for return probes.

    `unarmed` is wrong on purpose: it reports the probes as registered and puts none there.
    """

    path: str
    offsets: Sequence[int]
    returns: bool = False
    unarmed: bool = False

    @property
    def specs(self) -> list[str]:
        """The offsets as the module and the perf program read them."""
        kind = "r" if self.returns else "p"
        return [f"{kind}:{offset:#x}" for offset in self.offsets]


@dataclass
class ByModule:
    """The kernel module pinpoint_uprobe: uprobe_register() with inode and offset."""

    guest: Guest

    def register(self, request: Request) -> list[Registered]:
        """Load it. Raises GuestError when the module itself does not load."""
        words = ["insmod", self.guest.ship(MODULE), f"file={request.path}", f"unregistered={int(request.unarmed)}"]
        words.append(f"site={','.join(request.specs)}")
        report = self.guest.script(f"{shlex.join(words)} && cat {_REPORT}", in_place=True).check().stdout
        lines = [_words(line) for line in report.splitlines() if line.startswith("site=")]
        return [Registered(int(told["errno"]), int(told["offset"], 0)) for told in lines]

    def hits(self) -> list[Hit]:
        """What its report has."""
        return self._parsed(self.guest.read_text(_REPORT))

    def remove(self) -> list[Hit]:
        """Read the report and unload it."""
        steps = f"cat {_REPORT} && rmmod pinpoint_uprobe"
        return self._parsed(self.guest.script(steps, in_place=True).check().stdout)

    def _parsed(self, report: str) -> list[Hit]:
        found = []
        for line in report.splitlines():
            told = _words(line)
            if "lost" in told and told["lost"] != "0":
                raise GuestError(f"the report lost {told['lost']} hits: more processes than it has room for")
            if "hit" in told:
                site, pid = int(told["hit"]), int(told["pid"])
                found.append(Hit(site, pid, int(told["ip"], 16), int(told["hits"])))
                if int(told["returns"]):
                    found.append(Hit(site, pid, int(told["func"], 16), int(told["returns"]), returned=True))
        return found


@dataclass
class ByTracefs:
    """tracefs: uprobe_events, an instance of its own, and uprobe_profile."""

    guest: Guest

    def register(self, request: Request) -> list[Registered]:
        """Define an event for each offset, and enable them one by one: a refusal shows at either."""
        steps = [f"mkdir -p {_INSTANCE}"]
        kind = "r" if request.returns else "p"
        for index, offset in enumerate(request.offsets):
            define = f"echo '{kind}:{_GROUP}/s{index} {request.path}:{offset:#x}' >>{EVENTS}"
            enable = "true" if request.unarmed else f"echo 1 >{_INSTANCE}/events/{_GROUP}/s{index}/enable"
            steps.append(f"{{ {define} && {enable}; }} 2>&1; echo done {index} $?")
        steps.append(f"echo {_CUT}; cat {EVENTS}")
        told, _, listing = self.guest.script("\n".join(steps), in_place=True).check().stdout.partition(f"{_CUT}\n")
        errors = _errors(told)
        return [Registered(errors.get(index, 0), _listed(listing, index) or 0) for index in range(len(request.offsets))]

    def hits(self) -> list[Hit]:
        """What the trace has."""
        return self._parsed(self.guest.script(f"cat {_INSTANCE}/trace", in_place=True).check().stdout)

    def profile(self) -> dict[int, int]:
        """The hits of each site by uprobe_profile, which counts apart from the trace."""
        lines = (line.split() for line in self.guest.read_text(_PROFILE).splitlines())
        return {int(words[1][1:]): int(words[2]) for words in lines if re.fullmatch(r"s\d+", words[1])}

    def remove(self) -> list[Hit]:
        """Read trace and profile, disable, remove the events and the instance."""
        steps = (
            f"cat {_INSTANCE}/trace; echo {_CUT}; cat {_PROFILE}",
            f"[ ! -e {_INSTANCE}/events/{_GROUP} ] || echo 0 >{_INSTANCE}/events/{_GROUP}/enable",
            f"rmdir {_INSTANCE}",
            f"sed -n 's#^[pr]:\\({_GROUP}/[^ ]*\\) .*#-:\\1#p' {EVENTS} | while read -r e; do echo $e >>{EVENTS}; done",
            f"! grep -q {_GROUP}/ {EVENTS}",
        )
        trace = self.guest.script("\n".join(steps[:1]) + "\n" + " && ".join(steps[1:]), in_place=True).check().stdout
        return self._parsed(trace.partition(f"{_CUT}\n")[0])

    def _parsed(self, trace: str) -> list[Hit]:
        """Lines `COMM-PID [CPU] FLAGS TIME: s0: (0xIP)`, of a return `(0xRETURN <- 0xFUNCTION)`."""
        found = []
        for line in trace.splitlines():
            match = _TRACED.search(line)
            if match:
                returned = match["function"] is not None
                address = int(match["function"] or match["ip"], 16)
                found.append(Hit(int(match["site"]), int(match["pid"]), address, returned=returned))
        return found


_TRACED = re.compile(r"-(?P<pid>\d+) .*: s(?P<site>\d+): \((?P<ip>0x[0-9a-f]+)(?: <- (?P<function>0x[0-9a-f]+))?\)")


@dataclass
class ByPerf:
    """perf_event_open(2), through a program that keeps the events open."""

    guest: Guest
    _dialogues: list[Dialogue] = field(default_factory=list)
    _hits: list[Hit] = field(default_factory=list)

    def register(self, request: Request) -> list[Registered]:
        """Start the program. Raises GuestError when it cannot open any event."""
        guest, deadline = self.guest, self.guest.budget(_PERF_S)
        argv = [guest.program(PERF), request.path, *([] if request.unarmed else request.specs)]
        dialogue = Dialogue(guest.name, guest.link, argv, deadline)
        self._dialogues.append(dialogue)
        found = [Registered(0, offset) for offset in request.offsets] if request.unarmed else []
        while (line := dialogue.line(deadline)) != "ready":
            told = _words(line or "")
            if "errno" not in told:
                raise GuestError(f"pinpoint_perf: {line or 'has ended'}", where=guest.name)
            found.append(Registered(int(told["errno"]), int(told["spec"][2:], 0)))
        return found

    def hits(self) -> list[Hit]:
        """What it reported at its end."""
        return self._hits

    def remove(self) -> list[Hit]:
        """End the program, which closes the events."""
        deadline = self.guest.budget(_PERF_S)
        while self._dialogues:
            dialogue = self._dialogues.pop()
            dialogue.close_input()
            while (line := dialogue.line(deadline)) is not None:
                told = _words(line)
                self._hits.append(Hit(int(told["hit"]), int(told["pid"]), int(told["ip"], 16)))
            dialogue.status(deadline)
            dialogue.hang_up()
        return self._hits


# Each is made with a guest: `register`, then `hits` as often as wanted, then `remove`.
WAYS: dict[str, type[ByModule | ByTracefs | ByPerf]] = {"tracefs": ByTracefs, "module": ByModule, "perf": ByPerf}


def _words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


_MESSAGES = {os.strerror(number): number for number in errno.errorcode}


def _errors(told: str) -> dict[int, int]:
    """The errno of each site by what the shell printed in front of `done INDEX STATUS`."""
    found, message = {}, ""
    for line in told.splitlines():
        if not line.startswith("done "):
            message = line.rpartition(": ")[2]
            continue
        _, index, status = line.split()
        if status != "0":
            if message not in _MESSAGES:
                raise GuestError(f"tracefs refused a uprobe with an unknown message: {message!r}")
            found[int(index)] = _MESSAGES[message]
        message = ""
    return found


def _listed(listing: str, index: int) -> int | None:
    """The offset that uprobe_events has of an event, None for one that is not there."""
    match = re.search(rf"^[pr]:{_GROUP}/s{index} \S+:(0x[0-9a-f]+)", listing, re.MULTILINE)
    return int(match[1], 16) if match else None
