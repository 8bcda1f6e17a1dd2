"""A running guest: booted, proved to be its image's kernel, asked and told things, stopped."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import testinfra.host

from harness.core.deadline import Deadline
from harness.core.errors import BootError, DeadlineExceeded, GuestLost, PinpointError
from harness.core.events import Bus, Step
from harness.guest import identity, testinfra_backend
from harness.guest.accelerator import Accelerator
from harness.guest.console import Console
from harness.guest.dialogue import Dialogue
from harness.guest.emulator import Emulator
from harness.guest.heart import Heart
from harness.guest.keys import RunKeys
from harness.guest.memory import Memory
from harness.guest.monitor import Monitor
from harness.guest.result import Result
from harness.guest.shell import Shell
from harness.guest.ssh import SshLink
from harness.images.image import Image

READY = r"pinpoint: ready"
_PANIC = r"Kernel panic - not syncing[^\r\n]*"
# A panic prints its trace after its first line and then resets; all of that is wanted in the error.
_PANIC_TAIL_SECONDS = 3.0
_COMMAND_SECONDS = 120.0
# What a guest that let a deadline pass gets for its next answer: cleaning up after it shall not wait as long again.
_DOUBTED_SECONDS = 10.0
_SHOWN_LINES = 15


class Guest:
    """One guest. All that it can do raises GuestLost once its kernel has stopped or QEMU is gone."""

    def __init__(self, image: Image, emulator: Emulator, accelerator: Accelerator) -> None:
        self.image = image
        self.accelerator = accelerator
        self.boot_seconds = 0.0
        self._emulator = emulator
        self._link: SshLink | None = None
        self.heart: Heart | None = None  # from the first SSH connection on
        self._ended = ""
        self.shipped: dict[str, Path] = {}  # what of the image was put into it, by its path there
        self._doubted = False
        self.fenced_to = 0  # where on the console the last fence stands
        self._fencing = threading.Lock()
        emulator.monitor.when_over(self._over)

    @classmethod
    def boot(
        cls,
        image: Image,
        *,
        log: Path,
        keys: RunKeys,
        accelerator: Accelerator,
        bus: Bus,
        deadline: Deadline,
    ) -> Guest:
        """Start a guest and wait until it answers and has proved which kernel it runs.

        Its console goes to `log`. Raises BootError with the console's last lines when it panics, stops, or is not ready
        by the deadline; GuestError when another kernel answers; HostError without QEMU.
        """
        began = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with bus.step(image.recipe.name, "boot") as step:
            step.say(f"under {accelerator.name}: {accelerator.reason}")
            emulator = Emulator(image, console_log=log, keys=keys, accelerator=accelerator, deadline=deadline)
            guest = cls(image, emulator, accelerator)
            try:
                guest._become_ready(keys, step, deadline)
            except BaseException:
                guest.stop()
                raise
            guest.boot_seconds = time.monotonic() - began
            step.close_with(f"{image.release} in {guest.boot_seconds:.1f} s under {accelerator.name}")
        return guest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.image.recipe.name

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
        translation = self.image.recipe.architecture.probing.translation
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

    def _ask(self, argv: Sequence[str], deadline: Deadline | None, *, in_place: bool) -> Result:
        given = (deadline or Deadline.after(_COMMAND_SECONDS)).sooner(_DOUBTED_SECONDS if self._doubted else math.inf)
        try:
            result = self._shell.run(argv, given, in_place=in_place)
        except DeadlineExceeded:
            self._doubted = True
            raise
        self._doubted = False
        return result

    def put(self, content: bytes | Path, to: str, mode: int = 0o644, deadline: Deadline | None = None) -> None:
        """Write a file in the guest and verify it by SHA-256. Raises GuestError."""
        self.link.put(content, to, mode, deadline or Deadline.after(_COMMAND_SECONDS))

    def ship(self, module: str) -> str:
        """Put one of the image's modules into the guest, the first time it is asked for; gives its path there."""
        # `other/pinpoint_target` beside `pinpoint_target`: the kernel takes a module's name from inside the file.
        return self._once(self.image.modules[module], f"/tmp/{module.replace('/', '-')}.ko", 0o644)

    def program(self, name: str) -> str:
        """Put one of the image's programs into the guest, the first time it is asked for; gives its path there."""
        return self._once(self.image.programs[name], f"/tmp/{name}", 0o755)

    def _once(self, file: Path, path: str, mode: int) -> str:
        if path not in self.shipped:
            self.put(file, path, mode)
        self.shipped[path] = file
        return path

    def talk(self, *argv: str, deadline: Deadline | None = None) -> Dialogue:
        """Start a program that is talked with line by line, in a channel of its own."""
        return Dialogue(self.name, self.link, argv, deadline or Deadline.after(_COMMAND_SECONDS))

    def read_text(self, path: str) -> str:
        """The text of a file in the guest. Raises GuestError when it cannot be read."""
        return self.run("cat", path).check().stdout

    def fence(self, deadline: Deadline) -> str:
        """All that the console said since the last fence: whatever the kernel printed before this call is in it."""
        return self.fenced("true", deadline)[1]

    def fenced(self, text: str, deadline: Deadline) -> tuple[Result, str]:
        """Run a script as `script` does in place, and then fence, in the same round trip.

        A line written to /dev/kmsg goes through the kernel's one log, which the console prints in order
        (kernel/printk/printk.c, console_unlock(), 6.1); level 1 passes whatever console level is set.
        """
        with self._fencing:
            mark = f"pinpoint: fence {secrets.token_hex(8)}"
            status = "pinpoint_status() { return $1; }"
            told = f"{text}\nrc=$?; echo '<1>{mark}' >/dev/kmsg; {status}; pinpoint_status $rc"
            result = self.script(told, deadline, in_place=True)
            heard = self.console.await_line([rf"[^\n]*{mark}\r?\n"], deadline, since=self.fenced_to)
            start, self.fenced_to = self.fenced_to, heard.end
            return result, self.console.text(start, heard.start)

    def stop(self) -> None:
        """End the guest at once. Further calls do nothing."""
        if self._link is not None:
            self._link.close()
        self._emulator.stop()

    def _become_ready(self, keys: RunKeys, step: Step, deadline: Deadline) -> None:
        """Console line, then SSH, then proof."""
        try:
            if self.console.await_line([READY, _PANIC], deadline).index:
                self._hear_panic_out(deadline)
                raise BootError("the kernel panicked")
            step.say("ready, connecting")
            self._link = SshLink(self.name, self._emulator.ssh_port(), keys)
            if self._ended:
                self._link.cut(self._ended)
            self._link.connect(deadline)
            registers = self.image.recipe.architecture.probing.registers
            self.heart = Heart(self._emulator, self._link, registers, self._over)
            answer = self.script(identity.ASK, deadline)
            self.heart.calibrate(self.script)
        except (BootError, DeadlineExceeded, GuestLost) as failure:
            raise self._emulator.killed or self._boot_error(failure) from None
        identity.prove(self.image, answer)

    def _hear_panic_out(self, deadline: Deadline) -> None:
        """Wait for the reset that follows a panic, so that the console is complete."""
        with suppress(PinpointError):
            self.monitor.wait_event("SHUTDOWN", deadline=deadline.sooner(_PANIC_TAIL_SECONDS))

    def _boot_error(self, failure: PinpointError) -> BootError:
        """What went wrong with the console's last lines, or QEMU's words when it has gone."""
        lines = "\n  ".join(self.console.last_lines(_SHOWN_LINES)) or "(the console said nothing)"
        qemu = f"; QEMU: {said}" if (said := self._emulator.said()) else ""
        return BootError(f"did not boot: {failure.what}{qemu}\n  {lines}", where=self.name)

    def _over(self, reason: str) -> None:
        """The guest will never answer again: whoever waits for it is told now."""
        self._ended = reason
        self.console.end_soon()
        if self._link is not None:
            self._link.cut(reason)
