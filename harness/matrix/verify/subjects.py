"""The subjects that can be judged in a guest: modules, or a command with its packages."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from harness.core.errors import UsageError
from harness.guest.guest import Guest
from harness.guest.guest_run_deadline import GuestRunDeadline
from harness.guest.result import parsing_guest_text
from harness.images import modinfo_and_load_checks
from harness.landing.code import kprobe_sites_in_module_file
from harness.landing.probe_module import ListedProbe
from harness.landing.verify.listed_probes_and_modules import GuestLists
from harness.landing.verify.watch_and_judge_registrations import WatchedGuest
from harness.matrix.verify import guest_chroot_of_debian_packages
from harness.matrix.verify.plan import ModuleToLoad
from harness.pinning import loader
from harness.verdict import deliberate_dump_stack, pr_warn_lines_of_modules

# The word of --loader for the loader of docs/pinning.md.
PINNED = "pinned"
_PREFIX = "/tmp/pinpoint-verify-"
# How long a module is watched at most until its first probe, in seconds: _QUICK if only its initializer can register
# one, _PATIENT if it can register one later. _LATER is the minimum in the second case.
_QUICK, _PATIENT, _LATER = 3.0, 10.0, 5.0
# Seconds in which a command must have registered something: under emulation bpftrace needs ten on an idle host.
_ATTACHING = 180.0
# Seconds in which it must have enabled what it registered disabled: `perf record` needs five after `perf probe`.
_ENABLING = 20.0
# Seconds in which it must have registered something since the process that registers runs: stapio needs one.
_REGISTERING = 10.0
# Signals that end a command, with the seconds in which it must end: SIGINT is what a user would type.
_ENDING = {"INT": 20.0, "TERM": 5.0, "KILL": 5.0}
_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
_OUTPUT = "/tmp/pinpoint-command.out"
# The shell's status for a program that is not there.
_NO_PROGRAM = 127


class SubjectRefused(UsageError):
    """The kernel refused to load a module, or a command failed before it registered anything."""


class Subject(Protocol):
    """Something that registers probes.

    `start_time_ns` is the time when its start had completed, on the guest's monotonic clock in nanoseconds, 0 if
    unknown.
    """

    display_name: str
    notes: list[str]
    start_time_ns: int

    @property
    def backtrace_printing_modules(self) -> frozenset[str]:
        """The modules that may print backtraces on purpose."""

    @property
    def warning_texts_in_module_files(self) -> frozenset[str]:
        """The beginnings of lines that its modules may print and that look like the kernel's warnings."""

    def start(self) -> None:
        """Start the subject. Raises SubjectRefused."""

    def wait_until_registered(self, watched: WatchedGuest) -> None:
        """Wait until its probes are registered. Raises SubjectRefused."""

    def stop(self) -> None:
        """Stop the subject, and add a note for anything that goes wrong."""

    def refusal_with_explanation(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal with an explanation from the end of the kernel's log."""


class Modules:
    """Modules, loaded in order and unloaded in reverse.

    `settle` is how long to wait for registrations, in seconds; None waits as long as necessary.
    """

    def __init__(self, guest: Guest, modules: Sequence[ModuleToLoad], with_loader: str, settle: float | None) -> None:
        self.display_name = ", ".join(each.file.name for each in modules if each.judged)
        self.notes: list[str] = []
        self.start_time_ns = 0
        self._guest = guest
        self._modules = list(modules)
        self._loader = with_loader
        self._settle = settle
        self.loaded_modules: list[ModuleToLoad] = []
        self.still_loaded: list[str] = []
        """The modules that could not be unloaded: those without an exit function, or with a use count."""

    @cached_property
    def backtrace_printing_modules(self) -> frozenset[str]:
        """The modules whose files refer to a function that prints a backtrace."""
        return frozenset(
            each.name for each in self._modules if deliberate_dump_stack.module_can_print_backtraces(each.elf)
        )

    @cached_property
    def warning_texts_in_module_files(self) -> frozenset[str]:
        """The beginnings of lines in the modules' files that look like the kernel's warnings."""
        return frozenset[str]().union(
            *(pr_warn_lines_of_modules.warning_texts_in_module_file(each.elf) for each in self._modules)
        )

    def start(self) -> None:
        """Copy each module to the guest and load it."""
        for module in self._modules:
            self._guest.put(module.copied_file, module_path_in_guest(module))
            load = f"{self._loading(module)} {path_and_parameters_for_shell(module)}"
            result = self._guest.run_script(f"{load}; rc=$?; cat /proc/uptime; exit $rc")
            if result.rc == _NO_PROGRAM and self._loader not in ("insmod", PINNED):
                raise SubjectRefused(
                    "the guest has no such program",
                    where=f"--loader {self._loader}",
                    mend="give another command",
                )
            if not result.ok:
                reason = " ".join((result.stderr or _failed(result.stdout)).split()).replace(_PREFIX, "")
                raise SubjectRefused(f"was refused: {reason or f'status {result.rc}'}", where=str(module.file))
            self.loaded_modules.append(module)
            self.start_time_ns = _monotonic(result.stdout)

    def _loading(self, module: ModuleToLoad) -> str:
        """The command before the module's path; the pinned loader gets the loaded modules that it probes as targets."""
        if self._loader != PINNED:
            return self._loader
        there = {each.name for each in self.loaded_modules} | set(self._guest.image.drivers)
        sites = kprobe_sites_in_module_file.find_kprobe_sites(module.elf)
        targets = dict.fromkeys([*(e.name for e in self.loaded_modules if not e.judged), *(s.module for s in sites)])
        words = [word for name in targets if name in there for word in ("-t", name)]
        return shlex.join([self._guest.copy_program(loader.PROGRAM), "-n", module.name, *words])

    def wait_until_registered(self, watched: WatchedGuest) -> None:
        """Wait for the first probe, longer if the files use timers, work, threads or callbacks."""
        if self._settle is not None:
            watched.await_settled_lists(self._settle, self._settle, lambda _: True)
            return
        later = any(each.registers_later for each in self._modules if each.judged)
        watched.await_settled_lists(
            _LATER if later else 0.0, _PATIENT if later else _QUICK, watched.has_new_registrations
        )

    def stop(self) -> None:
        """Unload each module, the last first."""
        while self.loaded_modules:
            module = self.loaded_modules.pop()
            result = self._guest.run_script(
                f"rmmod {module.name}; gone=$?; rm -f {module_path_in_guest(module)}; exit $gone"
            )
            if not result.ok:
                self.still_loaded.append(module.name)
                self.notes.append(f"{module.name} was not unloaded: {' '.join(result.stderr.split())}")

    def refusal_with_explanation(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal with the kernel's last message about the module, and the module's parameters."""
        if refusal.mend:
            return refusal
        module = next((each for each in self._modules if str(each.file) == refusal.where), self._modules[0])
        logged = [line.partition("] ")[2] for line in log if f"{module.name}:" in line and "taint" not in line]
        known = modinfo_and_load_checks.parameters(module.elf)
        options = "; ".join(f"--param {name}=... ({about or 'its type is not known'})" for name, about in known.items())
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


def _failed(printed: str) -> str:
    """The line in which the pinned loader reports a failure, empty when there is none."""
    return next((line for line in printed.splitlines() if line.startswith("failed ")), "")


def path_and_parameters_for_shell(module: ModuleToLoad) -> str:
    """The module's path in the guest and its parameters, for a shell."""
    return shlex.join([module_path_in_guest(module), *module.parameter_words])


def module_path_in_guest(module: ModuleToLoad) -> str:
    """Where the module's file is in the guest."""
    return f"{_PREFIX}{module.name}.ko"


class Command:
    """A command in a guest, in a session of its own; with `chroot` it runs in the tree of its packages."""

    def __init__(
        self, guest: Guest, command: str, settle: float | None, *, chroot: bool, running_program: str = ""
    ) -> None:
        """`running_program` is the name of a process that begins to register when it begins to run, if one is known."""
        self._running_program = running_program
        self._registering: GuestRunDeadline | None = None
        self.display_name = f"`{command}`"
        self.backtrace_printing_modules: frozenset[str] = frozenset()
        self.warning_texts_in_module_files: frozenset[str] = frozenset()
        self.notes: list[str] = []
        self.start_time_ns = 0
        self._guest = guest
        self._command = command
        self._settle = settle
        self._chroot = chroot
        self._pid = 0
        self._disabled: frozenset[ListedProbe] = frozenset()
        self._enabling = guest.scaled_deadline(_ENABLING)

    def start(self) -> None:
        """Start it; its output goes to a file of the guest."""
        inner = f"exec env {_PATH} HOME=/root LC_ALL=C sh -c {shlex.quote(self._command)}"
        if self._chroot:
            guest_chroot_of_debian_packages.mount_kernel_filesystems(self._guest)
            inner = guest_chroot_of_debian_packages.chroot_command(self._command, _PATH)
        outer = f"echo $$; {inner} >{_OUTPUT} 2>&1 </dev/null"
        self._talk = self._guest.start_dialogue("setsid", "sh", "-c", outer)
        line = self._talk.read_line(self._guest.scaled_deadline(_ATTACHING))
        with parsing_guest_text("the process id of the command"):
            self._pid = int(line or "0")

    def wait_until_registered(self, watched: WatchedGuest) -> None:
        """Wait until something is registered, none of it is disabled, and nothing changes for a second.

        What is still disabled when the command has ended, or after a while, is judged as it is.
        """
        if self._settle is not None:
            watched.await_settled_lists(self._settle, self._settle, lambda _: True)
        else:
            watched.await_settled_lists(1.0, _ATTACHING, lambda lists: self._ready(watched, lists))
        if not self._runs() and not watched.has_new_registrations(watched.read_lists()):
            printed = self._output()
            what = (
                f"ended and registered nothing; it printed {printed!r}" if printed else "ended and registered nothing"
            )
            raise SubjectRefused(what, where=self.display_name, mend="let it run until it is interrupted")

    def stop(self) -> None:
        """Interrupt it, then end it, then kill it: each process of its session. Does nothing if it was not started."""
        if not self._pid:
            return
        for signal, seconds in _ENDING.items():
            if not self._runs():
                break
            self._guest.run_script(f"kill -{signal} -- -{self._pid}")
            deadline = self._guest.scaled_deadline(seconds)
            while self._runs() and not deadline.expired:
                time.sleep(0.2)
            if signal != "INT":
                self.notes.append(f"it did not end by SIGINT: SIG{signal} was sent")
        self._talk.hang_up()
        if self._chroot:
            guest_chroot_of_debian_packages.unmount_kernel_filesystems(self._guest)
        printed = self._output()
        self.notes += [f"it printed: {printed}"] if printed else []
        self._guest.run("rm", "-f", _OUTPUT)

    def refusal_with_explanation(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """Return the refusal as it is: the kernel's log explains nothing about a command."""
        del log
        return refusal

    def _ready(self, watched: WatchedGuest, lists: GuestLists) -> bool:
        disabled = frozenset(each for each in watched.newly_listed(lists) if "[DISABLED]" in each.flags)
        if disabled != self._disabled:
            self._disabled, self._enabling = disabled, self._guest.scaled_deadline(_ENABLING)
        if disabled:
            return self._enabling.expired or not self._runs()
        return watched.has_new_registrations(lists) or not self._runs() or self._registered_nothing()

    def _registered_nothing(self) -> bool:
        """Return True if the program that registers has run for so long that it must have registered something."""
        if self._registering:
            return self._registering.expired
        look = f"grep -qsx {shlex.quote(self._running_program)} /proc/[0-9]*/comm"
        if self._running_program and self._guest.run_script(look).ok:
            self._registering = self._guest.scaled_deadline(_REGISTERING)
        return False

    def _runs(self) -> bool:
        """Return True if a process of its session is alive; zombies do not count."""
        # The fields after the name in /proc/PID/stat are state, parent, group and session.
        query = f"sed 's/.*) //' /proc/[0-9]*/stat 2>/dev/null | grep -c '^[^Z] [0-9]* [0-9]* {self._pid} '"
        return self._guest.run_script(query).stdout.strip() not in ("", "0")

    def _output(self) -> str:
        """Return the end of its output in one line."""
        lines = self._guest.run_script(f"tail -n 5 {_OUTPUT}").stdout.splitlines()
        return "; ".join(" ".join(line.split()) for line in lines if line.strip())[-300:]


class CommandWithModules:
    """A command for which modules are loaded first and unloaded last."""

    def __init__(self, modules: Modules, command: Subject) -> None:
        self.display_name = command.display_name
        self.notes: list[str] = []
        self.start_time_ns = 0
        self._modules = modules
        self._command = command

    @cached_property
    def backtrace_printing_modules(self) -> frozenset[str]:
        """Those of the modules and of the command."""
        return self._modules.backtrace_printing_modules | self._command.backtrace_printing_modules

    @cached_property
    def warning_texts_in_module_files(self) -> frozenset[str]:
        """Those of the modules and of the command."""
        return self._modules.warning_texts_in_module_files | self._command.warning_texts_in_module_files

    def start(self) -> None:
        """Load the modules, then start the command."""
        self._modules.start()
        self._command.start()

    def wait_until_registered(self, watched: WatchedGuest) -> None:
        """Wait until the command's probes are there. Raises SubjectRefused."""
        self._command.wait_until_registered(watched)

    def stop(self) -> None:
        """End the command, then unload the modules."""
        self._command.stop()
        self._modules.stop()
        self.notes += [*self._command.notes, *self._modules.notes]

    def refusal_with_explanation(self, refusal: SubjectRefused, log: Sequence[str]) -> SubjectRefused:
        """A refusal with what the end of the kernel's log has on it."""
        return (
            self._modules if refusal.where != self._command.display_name else self._command
        ).refusal_with_explanation(refusal, log)
