"""A running guest: asked and told things, stopped. How it began is in start.py."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import testinfra.host

from harness.core import program_versions
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestLost
from harness.guest import testinfra_backend
from harness.guest.accelerator import Accelerator
from harness.guest.console import Console
from harness.guest.emulator import Emulator
from harness.guest.heartbeat import Heartbeat
from harness.guest.interactive_process import Dialogue
from harness.guest.keys import RunKeys
from harness.guest.memory import Memory
from harness.guest.monitor import Monitor
from harness.guest.provisioning import WAITING
from harness.guest.result import Result
from harness.guest.shell import Shell
from harness.guest.ssh import SshLink
from harness.guest.upload import Piece, put_all
from harness.images.image import Image
from harness.images.recipe import Traits

_COMMAND_SECONDS = 120.0
# What a guest that let a deadline pass gets for its next answer: cleaning up after it shall not wait as long again.
_DOUBTED_SECONDS = 10.0


class Guest:
    """One guest. All that it can do raises GuestLost once its kernel has stopped or QEMU is gone."""

    def __init__(self, image: Image, emulator: Emulator, accelerator: Accelerator) -> None:
        self.image = image
        self.accelerator = accelerator
        self.boot_seconds = 0.0
        self.frozen = ""  # what it was thawed from: the store's name of it; empty for one that was booted
        self._emulator = emulator
        self._link: SshLink | None = None
        self.heart: Heartbeat | None = None  # from the first SSH connection on
        self._ended = ""
        self.shipped: dict[str, Path] = {}  # what of the image was put into it, by its path there
        self._doubted = False
        self.fenced_to = 0  # where on the console the last fence stands
        self.when_stopped: Callable[[float], None] | None = None  # told once what processor seconds QEMU used
        self._fencing = threading.Lock()
        emulator.monitor.when_over(self._over)

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
        """The entry of its architecture in the table of architectures."""
        return self.image.recipe.architecture

    @property
    def traits(self) -> Traits:
        """What its recipe claims of the kernel."""
        return self.image.recipe.traits

    @cached_property
    def qemu_version(self) -> str:
        """The version line of the QEMU that runs it."""
        return program_versions.words(self.architecture.machine.qemu)

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
        """Its serial console."""
        return self._emulator.console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor."""
        return self._emulator.monitor

    @property
    def link(self) -> SshLink:
        """Its SSH connection."""
        if self._link is None:
            raise GuestLost("no SSH connection yet", where=self.name)
        return self._link

    @cached_property
    def _shell(self) -> Shell:
        return Shell(self.name, self.link)

    @cached_property
    def memory(self) -> Memory:
        """Its memory, seen from outside."""
        translation = self.architecture.kprobes.translation
        return Memory(self.name, self.monitor, self._emulator.shared, translation, self.image.vmlinux)

    @cached_property
    def host(self) -> testinfra.host.Host:
        """The guest as testinfra sees one."""
        return testinfra_backend.host(self.name, self.script)

    def run(self, *argv: str, deadline: Deadline | None = None) -> Result:
        """Run a program in the guest. Raises GuestLost, or DeadlineExceeded while it still runs."""
        return self._ask(argv, deadline, in_place=False)

    def script(self, text: str, deadline: Deadline | None = None, *, in_place: bool = False) -> Result:
        """Run a shell script in the guest: one round trip, however many commands; `in_place` as in Shell.run()."""
        return self._ask(("sh", "-c", text), deadline, in_place=in_place)

    def budget(self, seconds: float) -> Deadline:
        """So many seconds for something that this guest does: more of them, as it is slower than a usual one."""
        return Deadline.after(seconds * (self.heart.slowness if self.heart else 1.0))

    def _ask(self, argv: Sequence[str], deadline: Deadline | None, *, in_place: bool) -> Result:
        given = deadline or self.budget(_COMMAND_SECONDS)
        if self._doubted:
            given = given.sooner(self.budget(_DOUBTED_SECONDS).remaining())
        try:
            result = self._shell.run(argv, given, in_place=in_place)
        except DeadlineExceeded:
            self._doubted = True
            raise
        self._doubted = False
        return result

    def put(self, content: bytes | Path, to: str, mode: int = 0o644, deadline: Deadline | None = None) -> None:
        """Write a file in the guest and verify it by SHA-256. Raises GuestError."""
        self.link.put(content, to, mode, deadline or self.budget(_COMMAND_SECONDS))

    def ship(self, module: str) -> str:
        """Put one of the image's modules into the guest, the first time it is asked for; gives its path there."""
        return self._once(_module_path(module))

    def program(self, name: str) -> str:
        """Put one of the image's programs into the guest, the first time it is asked for; gives its path there."""
        return self._once(_program_path(name))

    def ship_all(self, deadline: Deadline) -> None:
        """Put every module and program of the image that it does not have into the guest."""
        missing = {path: piece for path, piece in self._cargo.items() if path not in self.shipped}
        put_all(self.link, missing, self.name, deadline)
        self.has_all()

    def has_all(self) -> None:
        """Know that `ship_all` was done, by this guest or by the one whose frozen state it began with."""
        self.shipped.update({path: piece.file for path, piece in self._cargo.items()})

    @cached_property
    def _cargo(self) -> dict[str, Piece]:
        """What can be shipped, by its path in the guest."""
        modules = {_module_path(name): Piece(file, 0o644) for name, file in self.image.modules.items()}
        return modules | {_program_path(name): Piece(file, 0o755) for name, file in self.image.programs.items()}

    def _once(self, path: str) -> str:
        piece = self._cargo[path]
        if path not in self.shipped:
            self.put(piece.file, path, piece.mode)
        self.shipped[path] = piece.file
        return path

    def talk(self, *argv: str, deadline: Deadline | None = None) -> Dialogue:
        """Start a program that is talked with line by line, in a channel of its own."""
        return Dialogue(self.name, self.link, argv, deadline or self.budget(_COMMAND_SECONDS))

    def read_text(self, path: str) -> str:
        """The text of a file in the guest. Raises GuestError when it cannot be read."""
        return self.run("cat", path).check().stdout

    def connect(self, keys: RunKeys, deadline: Deadline) -> None:
        """Log in, once it is ready. Raises GuestLost when nobody answers, GuestError when it is another's key."""
        self._link = SshLink(self.name, self._emulator.ssh_port(), keys)
        if self._ended:
            self._link.cut(self._ended)
        self._link.connect(deadline)
        registers = self.architecture.kprobes.registers
        self.heart = Heartbeat(self._emulator, self._link, registers, self._over)

    def forget_run(self, deadline: Deadline) -> None:
        """Have it forget this run's keys, end every process and wait for another run's word; then it can be frozen.

        Raises GuestLost when it does not answer, DeadlineExceeded.
        """
        before = self.console.position
        with suppress(GuestLost):  # The connection is among what ends.
            self.link.run(("kill", "-HUP", "1"), deadline)
        self.console.await_line([WAITING], deadline, since=before)
        self.link.close()

    @property
    def emulator(self) -> Emulator:
        """The QEMU it runs in."""
        return self._emulator

    def fence(self, deadline: Deadline) -> str:
        """All that the console said since the last fence: whatever the kernel printed before this call is in it."""
        return "".join(self.fenced("true", deadline)[1]).replace("\r\n", "\n")

    def fenced(self, text: str, deadline: Deadline) -> tuple[Result, Iterator[str]]:
        """Run a script as `script` does in place, and then fence, in the same round trip.

        Gives what the console said since the last fence as Console.lines() does, to be read before the next fence.

        A line written to /dev/kmsg goes through the kernel's one log, which the console prints in order
        (kernel/printk/printk.c, console_unlock(), 6.1); level 1 passes whatever console level is set.
        """
        with self._fencing:
            mark = f"pinpoint: fence {secrets.token_hex(8)}"
            status = "pinpoint_status() { return $1; }"
            told = f"{text}\nrc=$?; echo '<1>{mark}' >/dev/kmsg; {status}; pinpoint_status $rc"
            result = self.script(told, deadline, in_place=True)
            heard = self.console.await_line([rf"{mark}\r?\n"], deadline, since=self.fenced_to)
            start, self.fenced_to = self.fenced_to, heard.end
            # What came before the last fence has been read, or nobody wanted to.
            self.console.keep_from(start)
            return result, self.console.lines(start, self.console.record_start(heard.start, start))

    def stop(self) -> None:
        """End the guest at once. Further calls do nothing."""
        if self._link is not None:
            self._link.close()
        self._emulator.stop()
        tell, self.when_stopped = self.when_stopped, None
        if tell:
            tell(self._emulator.cpu_seconds)

    def _over(self, reason: str) -> None:
        """The guest will never answer again: whoever waits for it is told now."""
        self._ended = reason
        self.console.end_soon()
        if self._link is not None:
            self._link.cut(reason)


def _module_path(module: str) -> str:
    """Where a module is put: `rebuilt/pinpoint_target` and `pinpoint_target` have the same module name."""
    return f"/tmp/{module.replace('/', '-')}.ko"


def _program_path(name: str) -> str:
    return f"/tmp/{name}"
