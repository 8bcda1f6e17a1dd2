"""A running guest: commands, files, fences, memory and its end. start.py starts guests."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import testinfra.host

from harness.core import program_versions
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestLost, GuestNotRun
from harness.guest import testinfra_backend
from harness.guest.accelerator import Accelerator
from harness.guest.console import Console
from harness.guest.guest_run_deadline import GuestRunClock, GuestRunDeadline
from harness.guest.heartbeat import Heartbeat
from harness.guest.keys import RunKeys
from harness.guest.monitor import Monitor
from harness.guest.pexpect_over_ssh import Dialogue
from harness.guest.provisioning_line import WAITING
from harness.guest.qemu_process import QemuProcess
from harness.guest.read_guest_memory import Memory
from harness.guest.resident_shell_over_ssh import Shell
from harness.guest.result import Result
from harness.guest.ssh import SshConnection
from harness.guest.upload import HostFileWithMode, put_all
from harness.images.image import Image
from harness.images.vm_recipe import Traits

_COMMAND_SECONDS = 120.0
# The limit for the next command after one that exceeded its deadline, so that the cleanup does not wait as long again.
_DOUBTED_SECONDS = 10.0


class Guest:
    """One guest. Every operation on it raises GuestLost once its kernel has stopped or QEMU has ended."""

    def __init__(self, image: Image, emulator: QemuProcess, accelerator: Accelerator) -> None:
        self.image = image
        self.accelerator = accelerator
        self.boot_seconds = 0.0
        self.frozen = ""  # store entry that the guest was thawed from; empty if it was booted
        self._emulator = emulator
        self._link: SshConnection | None = None
        self.heartbeat: Heartbeat | None = None  # set by the first SSH connection
        self._ended = ""
        self.copied_files: dict[str, Path] = {}  # files of the image in the guest, by their path there
        self._doubted = False
        self.used_up = ""  # why no other cell can use the guest, although its state is as it was
        self.fence_position = 0  # position on the console after the last fence
        self.when_stopped: Callable[[float], None] | None = None  # called once with the CPU seconds of QEMU
        self._fencing = threading.Lock()
        emulator.monitor.call_when_guest_stops(self.give_up)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.image.recipe.name

    @property
    def architecture(self) -> Architecture:
        """The entry of the architecture table for this guest."""
        return self.image.recipe.architecture

    @property
    def traits(self) -> Traits:
        """The traits that the recipe claims."""
        return self.image.recipe.traits

    @cached_property
    def qemu_version_text(self) -> str:
        """The version of the QEMU that runs the guest."""
        return program_versions.program_version(self.architecture.qemu_machine.qemu)

    @property
    def argv(self) -> list[str]:
        """QEMU's command line."""
        return list(self._emulator.argv)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._emulator.pid

    @property
    def console(self) -> Console:
        """The guest's serial console."""
        return self._emulator.console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor."""
        return self._emulator.monitor

    @property
    def ssh_connection(self) -> SshConnection:
        """The SSH connection to the guest."""
        if self._link is None:
            raise GuestLost("no SSH connection yet", where=self.name)
        return self._link

    @cached_property
    def _shell(self) -> Shell:
        return Shell(self.name, self.ssh_connection)

    @cached_property
    def memory(self) -> Memory:
        """The guest's memory, read from outside."""
        translation = self.architecture.kprobe_traits.address_translation
        return Memory(self.name, self.monitor, self._emulator.shared, translation, self.image.vmlinux)

    @cached_property
    def testinfra_host(self) -> testinfra.host.Host:
        """The guest as a testinfra host."""
        return testinfra_backend.make_host_from_script_runner(self.name, self.run_script)

    def run(self, *argv: str, deadline: Deadline | None = None) -> Result:
        """Run a program in the guest.

        Raises GuestLost, DeadlineExceeded if the program still runs then, and GuestNotRun if the host does not run the
        guest.
        """
        return self._run(argv, deadline, in_place=False)

    def run_script(self, text: str, deadline: Deadline | None = None, *, in_place: bool = False) -> Result:
        """Run a shell script in the guest in one round trip; `in_place` is as in Shell.run_program()."""
        return self._run(("sh", "-c", text), deadline, in_place=in_place)

    def scaled_deadline(self, seconds: float) -> GuestRunDeadline:
        """Return a deadline after `seconds`, or proportionally later if this guest is slower than a usual one.

        Only time counts in which the host runs the guest.
        """
        return self._run_clock.deadline_after(seconds * self.slowness)

    @cached_property
    def _run_clock(self) -> GuestRunClock:
        return GuestRunClock(self.name, self.pid, lambda: self.monitor.is_guest_paused)

    @property
    def slowness(self) -> float:
        """How many times longer this guest takes than a usual one, as its heartbeat shows; 1 before the first beat."""
        return self.heartbeat.slowness if self.heartbeat else 1.0

    def _run(self, argv: Sequence[str], deadline: Deadline | None, *, in_place: bool) -> Result:
        limit = deadline or self.scaled_deadline(_COMMAND_SECONDS)
        if self._doubted:
            limit = limit.earlier_of(_DOUBTED_SECONDS * self.slowness)
        try:
            result = self._shell.run_program(argv, limit, in_place=in_place)
        except (DeadlineExceeded, GuestNotRun):
            self._doubted = True
            raise
        self._doubted = False
        return result

    def put(self, content: bytes | Path, to: str, mode: int = 0o644, deadline: Deadline | None = None) -> None:
        """Write a file in the guest and verify it by SHA-256. Raises GuestError."""
        self.ssh_connection.put(content, to, mode, deadline or self.scaled_deadline(_COMMAND_SECONDS))

    def copy_module(self, module: str) -> str:
        """Copy one of the image's modules, or of the own tree's, into the guest on the first call; return its path."""
        return self._once(_module_path(module), HostFileWithMode(self.image.module(module), 0o644))

    def copy_program(self, name: str) -> str:
        """Copy one of the image's programs into the guest on the first call; return its path there.

        If the program is in a directory, the directory's other files are copied with it: a user target's libraries.
        """
        path = _program_path(name)
        program = self._files[path]
        if "/" not in name:
            return self._once(path, program)
        directory = path.rpartition("/")[0] + "/"
        files = {other: piece for other, piece in self._files.items() if other.startswith(directory)}
        self._copy_missing(files, self.scaled_deadline(_COMMAND_SECONDS))
        return path

    def copy_all_files(self, deadline: Deadline) -> None:
        """Copy every module and program of the image into the guest, except files that it already has."""
        self._copy_missing(self._files, deadline)

    def mark_all_files_copied(self) -> None:
        """Record that `copy_all_files` was done, for this guest or for the guest that it was thawed from."""
        self.copied_files.update({path: piece.file for path, piece in self._files.items()})

    def _copy_missing(self, files: Mapping[str, HostFileWithMode], deadline: Deadline) -> None:
        """Copy those of some files that the guest does not have yet; `files` has them by their paths in the guest."""
        missing = {path: piece for path, piece in files.items() if path not in self.copied_files}
        put_all(self.ssh_connection, missing, self.name, deadline)
        self.copied_files.update({path: piece.file for path, piece in missing.items()})

    @cached_property
    def _files(self) -> dict[str, HostFileWithMode]:
        """Files that can be copied into the guest, by their path there."""
        modules = {_module_path(name): HostFileWithMode(file, 0o644) for name, file in self.image.modules.items()}
        return modules | {
            _program_path(name): HostFileWithMode(file, 0o755) for name, file in self.image.programs.items()
        }

    def _once(self, path: str, piece: HostFileWithMode) -> str:
        if path not in self.copied_files:
            self.put(piece.file, path, piece.mode)
        self.copied_files[path] = piece.file
        return path

    def start_dialogue(self, *argv: str, deadline: Deadline | None = None) -> Dialogue:
        """Start an interactive program in its own channel; input and output are lines."""
        return Dialogue(self.name, self.ssh_connection, argv, deadline or self.scaled_deadline(_COMMAND_SECONDS))

    def read_text(self, path: str) -> str:
        """Return the text of a file in the guest. Raises GuestError when the file cannot be read."""
        return self.run("cat", path).check().stdout

    def connect(self, keys: RunKeys, deadline: Deadline) -> None:
        """Log in to a ready guest. Raises GuestLost when no server answers, GuestError when the host key is wrong."""
        self._link = SshConnection(self.name, self._emulator.ssh_port(), keys)
        if self._ended:
            self._link.break_connection(self._ended)
        self._link.connect(deadline)
        registers = self.architecture.kprobe_traits.register_parser
        self.heartbeat = Heartbeat(self._emulator, self._link, registers, self.give_up)

    def return_to_provisioning(self, deadline: Deadline) -> None:
        """Make init erase this run's keys, end every process and wait for a new provisioning line.

        The guest can be frozen afterwards. Raises GuestLost when it does not answer, DeadlineExceeded.
        """
        before = self.console.position
        with suppress(GuestLost):  # init ends the connection too.
            self.ssh_connection.run(("kill", "-HUP", "1"), deadline)
        self.console.await_line([WAITING], deadline, since=before)
        self.ssh_connection.close()

    @property
    def qemu_process(self) -> QemuProcess:
        """The QEMU that runs the guest."""
        return self._emulator

    def read_output_since_fence(self, deadline: Deadline) -> str:
        """Return the console's output since the last fence, including all that the kernel printed before this call."""
        return "".join(self.run_fenced_script("true", deadline)[1]).replace("\r\n", "\n")

    def run_fenced_script(self, text: str, deadline: Deadline) -> tuple[Result, Iterator[str]]:
        """Run a script like `run_script(in_place=True)` and then fence, in one round trip.

        Returns the result and the console's output since the last fence, as Console.lines() yields it; it must be read
        before the next fence.

        A line written to /dev/kmsg goes through the kernel's one log, which the console prints in order
        (kernel/printk/printk.c, console_unlock(), 6.1). Level 0 is printed at every console log level, level 1 only
        above `dmesg -n 1` (suppress_message_printing()).
        """
        with self._fencing:
            mark = f"pinpoint: fence {secrets.token_hex(8)}"
            status = "pinpoint_status() { return $1; }"
            command = f"{text}\nrc=$?; echo '<0>{mark}' >/dev/kmsg; {status}; pinpoint_status $rc"
            result = self.run_script(command, deadline, in_place=True)
            found = self.console.await_line([rf"{mark}\r?\n"], deadline, since=self.fence_position)
            start, self.fence_position = self.fence_position, found.end
            # Output before the last fence has been read or is not needed.
            self.console.drop_before(start)
            return result, self.console.lines(start, self.console.find_record_start(found.start, start))

    def stop(self) -> None:
        """End the guest at once. Further calls do nothing."""
        if self._link is not None:
            self._link.close()
        self._emulator.stop()
        callback, self.when_stopped = self.when_stopped, None
        if callback:
            callback(self._emulator.cpu_seconds)

    def give_up(self, reason: str) -> None:
        """End all waits for this guest with the reason: it will not answer again."""
        self._ended = reason
        self.console.end_waits_soon()
        if self._link is not None:
            self._link.break_connection(reason)


def _module_path(module: str) -> str:
    """Return a module's path in the guest; `rebuilt/pinpoint_target` and `pinpoint_target` have one module name."""
    return f"/tmp/{module.replace('/', '-')}.ko"


def _program_path(name: str) -> str:
    return f"/tmp/{name}"
