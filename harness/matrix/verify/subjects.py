"""The subjects that can be judged in a guest: modules, or a command with its packages."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Protocol

from harness.core.errors import UsageError
from harness.guest.guest import Guest
from harness.images import module_info
from harness.images.guest_packages import ROOT
from harness.landing.verify.moment import GuestLists
from harness.landing.verify.watched import Watched
from harness.matrix.verify.plan import ModuleToLoad

_PREFIX = "/tmp/pinpoint-verify-"
# How long a module is watched at most until its first probe, in seconds: _QUICK if only its initializer can register
# one, _PATIENT if it can register one later. _LATER is the minimum in the second case.
_QUICK, _PATIENT, _LATER = 3.0, 10.0, 5.0
# How long a command may take to register something, and to end after each signal, in seconds.
_ATTACHING, _ENDING = 60.0, 5.0
_ENVIRONMENT = "PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C"
_OUTPUT = "/tmp/pinpoint-command.out"


class SubjectRefused(UsageError):
    """The kernel refused to load a module, or a command failed before it registered anything."""


class Subject(Protocol):
    """Something that registers probes.

    `names` are its modules, which may print backtraces on purpose. `began` is the time when its start had completed, on
    the guest's monotonic clock in nanoseconds, 0 if unknown.
    """

    about: str
    names: frozenset[str]
    notes: list[str]
    began: int

    def start(self) -> None:
        """Start the subject. Raises Refused."""

    def settle(self, watched: Watched) -> None:
        """Wait until its probes are registered. Raises Refused."""

    def stop(self) -> None:
        """Stop the subject, and add a note for anything that goes wrong."""

    def explain(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal with an explanation from the end of the kernel's log."""


class Modules:
    """Modules, loaded in order and unloaded in reverse; `settle` is in seconds, None to wait as long as necessary."""

    def __init__(self, guest: Guest, modules: Sequence[ModuleToLoad], loader: str, settle: float | None) -> None:
        self.about = ", ".join(each.file.name for each in modules if each.judged)
        self.names = frozenset(each.name for each in modules)
        self.notes: list[str] = []
        self.began = 0
        self._guest = guest
        self._modules = list(modules)
        self._loader = loader
        self._settle = settle
        self._standing: list[ModuleToLoad] = []

    def start(self) -> None:
        """Copy each module to the guest and load it."""
        for module in self._modules:
            path = _place(module)
            self._guest.put(module.copy, path)
            load = f"{self._loader} {shlex.join([path, *module.words])}"
            result = self._guest.script(f"{load}; rc=$?; cat /proc/uptime; exit $rc")
            if not result.ok:
                printed = " ".join(result.stderr.split()).replace(_PREFIX, "")
                raise SubjectRefused(f"was refused: {printed or f'status {result.rc}'}", where=str(module.file))
            self._standing.append(module)
            self.began = _monotonic(result.stdout)

    def settle(self, watched: Watched) -> None:
        """Wait for the first probe, longer if the files use timers, work, threads or callbacks."""
        if self._settle is not None:
            watched.settle(self._settle, self._settle, lambda _: True)
            return
        later = any(each.registers_later for each in self._modules if each.judged)
        watched.settle(_LATER if later else 0.0, _PATIENT if later else _QUICK, watched.has_registered)

    def stop(self) -> None:
        """Unload each module, the last first."""
        while self._standing:
            module = self._standing.pop()
            result = self._guest.script(f"rmmod {module.name}; gone=$?; rm -f {_place(module)}; exit $gone")
            if not result.ok:
                self.notes.append(f"{module.name} was not unloaded: {' '.join(result.stderr.split())}")

    def explain(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal with the kernel's last message about the module, and the module's parameters."""
        module = next((each for each in self._modules if str(each.file) == refusal.where), self._modules[0])
        logged = [line.partition("] ")[2] for line in log if f"{module.name}:" in line and "taint" not in line]
        known = module_info.parameters(module.elf)
        options = "; ".join(f"--param {name}=... ({about})" for name, about in known.items())
        message = f"the kernel printed {logged[-1]!r}; " if logged else ""
        mend = f"{message}{f'its parameters: {options}' if options else 'see its initializer'}"
        return SubjectRefused(refusal.what, where=refusal.where, mend=mend)


def _monotonic(uptime: str) -> int:
    """Return the time in /proc/uptime, in nanoseconds. It is the monotonic time, because a guest is never suspended."""
    words = uptime.split()
    try:
        return int(float(words[-2]) * 1e9)
    except (IndexError, ValueError):
        return 0


def _place(module: ModuleToLoad) -> str:
    return f"{_PREFIX}{module.name}.ko"


class Command:
    """A command in a guest, in a session of its own; with `chroot` it runs in the tree of its packages."""

    def __init__(self, guest: Guest, command: str, settle: float | None, *, chroot: bool) -> None:
        self.about = f"`{command}`"
        self.names: frozenset[str] = frozenset()
        self.notes: list[str] = []
        self.began = 0
        self._guest = guest
        self._command = command
        self._settle = settle
        self._chroot = chroot
        self._pid = 0

    def start(self) -> None:
        """Start the command; its output goes to a file in the guest."""
        inner = f"exec env {_ENVIRONMENT} sh -c {shlex.quote(self._command)}"
        if self._chroot:
            for name in ("proc", "sys", "dev"):
                self._guest.run("mount", "-o", "rbind", f"/{name}", f"{ROOT}/{name}").check()
            for name in ("kernel/debug", "kernel/tracing"):
                both = f"/sys/{name} {ROOT}/sys/{name}"
                self._guest.script(f"[ ! -d /sys/{name} ] || mount -o bind {both}").check()
            inner = f"exec chroot {ROOT} /usr/bin/env {_ENVIRONMENT} /bin/sh -c {shlex.quote(self._command)}"
        outer = f"echo $$; {inner} >{_OUTPUT} 2>&1 </dev/null"
        self._talk = self._guest.start_dialogue("setsid", "sh", "-c", outer)
        line = self._talk.read_line(self._guest.budget(_ATTACHING))
        self._pid = int(line or "0")

    def settle(self, watched: Watched) -> None:
        """Wait until something is registered, none of it is disabled, and nothing changes for a second."""
        if self._settle is not None:
            watched.settle(self._settle, self._settle, lambda _: True)
        else:
            watched.settle(1.0, _ATTACHING, lambda lists: self._ready(watched, lists))
        if not self._runs() and not watched.has_registered(watched.lists()):
            output = self._output()
            raise SubjectRefused(f"ended and registered nothing: {output}", where=self.about, mend="see what it prints")

    def stop(self) -> None:
        """Send SIGINT, then SIGTERM, then SIGKILL to all processes of its session, until none is left."""
        for signal in ("INT", "TERM", "KILL"):
            if not self._runs():
                break
            self._guest.script(f"kill -{signal} -- -{self._pid}")
            until = time.monotonic() + self._guest.budget(_ENDING).remaining()
            while self._runs() and time.monotonic() < until:
                time.sleep(0.2)
            if signal != "INT":
                self.notes.append(f"it did not end by SIGINT: SIG{signal} was sent")
        self._talk.hang_up()
        if self._chroot:
            mounts = ("sys/kernel/tracing", "sys/kernel/debug", "dev", "sys", "proc")
            self._guest.script("; ".join(f"umount -l {ROOT}/{name}" for name in mounts))
        output = self._output()
        self.notes += [f"it printed: {output}"] if output else []
        self._guest.run("rm", "-f", _OUTPUT)

    def explain(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal as it is: the kernel's log explains nothing about a command."""
        del log
        return refusal

    def _ready(self, watched: Watched, lists: GuestLists) -> bool:
        came = watched.newly_listed(lists)
        if any("[DISABLED]" in each.flags for each in came):
            return False
        return watched.has_registered(lists) or not self._runs()

    def _runs(self) -> bool:
        """Return True if a process of its session is alive; zombies do not count."""
        # The fields after the name in /proc/PID/stat are state, parent, group and session.
        query = f"sed 's/.*) //' /proc/[0-9]*/stat 2>/dev/null | grep -c '^[^Z] [0-9]* [0-9]* {self._pid} '"
        return self._guest.script(query).stdout.strip() not in ("", "0")

    def _output(self) -> str:
        """Return the end of its output in one line."""
        lines = self._guest.script(f"tail -n 5 {_OUTPUT}").stdout.splitlines()
        return "; ".join(" ".join(line.split()) for line in lines if line.strip())[-300:]
