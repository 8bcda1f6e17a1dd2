"""A systemtap module in a guest: run by its own staprun, whose opened files are recorded while it loads the module."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.images import systemtap
from harness.images.guest_packages_as_archive_or_disk import ROOT
from harness.landing.verify.watch_and_judge_registrations import WatchedGuest
from harness.matrix.verify.plan import ModuleToLoad
from harness.matrix.verify.subjects import Command, SubjectRefused

PACKAGES = (systemtap.RUNTIME_PACKAGE, "strace")
_SHOWN = 4
# A path of 4096 bytes, each escaped. The file is the guest's, and the patterns take quadratic time.
_LONGEST_LINE = 4 * 4096 + 256
_TRACE = "/tmp/pinpoint-strace"
# strace delays nothing: a delay of init_module(2) stopped staprun 5.1 for good. `-y` resolves each descriptor's path.
_STRACE = ("strace", "-f", "-y", "-qq", "--seccomp-bpf", "-o", _TRACE, "-e", "signal=none")
_CALLS = ("-e", "trace=open,openat,close,init_module,finit_module")
_OPENED = re.compile(r"(?P<process>\d+) +open(?:at)?\(.* = (?P<descriptor>\d+)<(?P<path>/sys/module/\w+/[^>]+)>")
_CLOSED = re.compile(r"(?P<process>\d+) +close\((?P<descriptor>\d+)<")
_LOADED = re.compile(r"\d+ +f?init_module\(")


# staprun executes it after it has loaded the module; it starts the probes and runs until it is interrupted.
_STAPIO = "stapio"


class SystemtapRun:
    """A Subject: the module of a script, with staprun, stapio and strace among the guest's packages."""

    def __init__(self, guest: Guest, module: ModuleToLoad, settle: float | None, script: str) -> None:
        """`script` is what the report calls it by."""
        self.display_name = script
        self.backtrace_printing_modules: frozenset[str] = frozenset()
        self.warning_texts_in_module_files: frozenset[str] = frozenset()
        self.notes = [f"stap warned: {warning}" for warning in module.build_warnings]
        self.start_time_ns = 0
        self._guest = guest
        self._module = module
        self._path = f"/tmp/{module.name}.ko"
        words = shlex.join([*_STRACE, *_CALLS, "staprun", self._path])
        self._command = Command(guest, words, settle, chroot=True, running_program=_STAPIO)

    def start(self) -> None:
        """Copy the module, and start staprun."""
        self._guest.put(self._module.copied_file, f"{ROOT}{self._path}")
        self._command.start()

    def wait_until_registered(self, watched: WatchedGuest) -> None:
        """Wait until the script's probes are there. Raises SubjectRefused."""
        self._command.wait_until_registered(watched)

    def stop(self) -> None:
        """Interrupt it: stapio detaches and removes its module."""
        self._command.stop()
        held = parse_held_files_from_strace(self._guest.run_script(f"cat {ROOT}{_TRACE} 2>/dev/null; true").stdout)
        self.notes.append(held.describe(self._pinned_by(held.paths)))
        if self._guest.run_script(f"grep -q '^{self._module.name} ' /proc/modules").ok:
            self._guest.run("rmmod", self._module.name)
            self.notes.append(f"{self._module.name} was still loaded after stapio had ended, and was removed by rmmod")
        self._guest.run("rm", "-f", f"{ROOT}{self._path}", f"{ROOT}{_TRACE}")
        self.notes += self._command.notes

    def _pinned_by(self, paths: Collection[str]) -> list[str]:
        """The modules whose use count rises while a process has these files open, as staprun had."""
        steps = ["cat /proc/modules; echo; pids="]
        steps += [f'[ ! -r {path} ] || {{ sleep 60 <{path} & pids="$pids $!"; }}' for path in map(shlex.quote, paths)]
        steps += ["sleep 1; cat /proc/modules; kill $pids"]
        before, _, during = self._guest.run_script("\n".join(steps)).stdout.partition("\n\n")
        counts = _use_counts(before)
        return sorted(name for name, count in _use_counts(during).items() if count > counts.get(name, count))

    def refusal_with_explanation(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal with the kernel's last message about the module."""
        logged = [line.partition("] ")[2] for line in log if self._module.name in line and "taint" not in line]
        mend = f"the kernel printed {logged[-1]!r}" if logged else refusal.mend
        return SubjectRefused(refusal.what, where=self.display_name, mend=mend)


@dataclass(frozen=True)
class HeldFiles:
    """The files below /sys/module that staprun had open at once, at most; `at_load` are those when it loaded."""

    paths: tuple[str, ...] = ()
    at_load: tuple[str, ...] | None = None

    def describe(self, pinned: Sequence[str]) -> str:
        """One line; `pinned` are the modules whose use count such open files raise."""
        if self.at_load is None:
            return "staprun was not seen to load its module: what it holds open meanwhile is not known"
        if not self.paths:
            return "staprun holds no file of /sys/module open"
        modules = sorted({path.split("/")[3] for path in self.paths})
        files = sorted({path.split("/", 4)[4] for path in self.paths})
        shown = ", ".join(modules[:_SHOWN]) + (f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else "")
        pins = f"they pin {', '.join(pinned)}" if pinned else "no use count rises by that: here it pins no module"
        return (
            f"staprun holds open {', '.join(files)} of {len(modules)} modules ({shown}), "
            f"{len(self.at_load)} of them when it loads its own, the others after that; {pins}"
        )


def parse_held_files_from_strace(trace: str) -> HeldFiles:
    """Read what strace recorded of a staprun."""
    held: dict[tuple[str, str], str] = {}
    at_load: tuple[str, ...] | None = None
    most: tuple[str, ...] = ()
    for whole in trace.splitlines():
        line = whole[:_LONGEST_LINE]
        opened, closed = _OPENED.match(line), _CLOSED.match(line)
        if opened:
            held[opened["process"], opened["descriptor"]] = opened["path"]
        elif closed:
            held.pop((closed["process"], closed["descriptor"]), None)
        elif _LOADED.match(line) and at_load is None:
            at_load = tuple(sorted(held.values()))
        if len(held) > len(most):
            most = tuple(sorted(held.values()))
    return HeldFiles(most, at_load)


@parsing_guest_text("/proc/modules")
def _use_counts(listing: str) -> dict[str, int]:
    """The use count of each loaded module of /proc/modules; -1 for one that cannot be removed."""
    fields = [line.split() for line in listing.splitlines()]
    return {words[0]: int(words[2]) if words[2].isdigit() else -1 for words in fields if len(words) > 2}
