"""One QEMU process and what ties it to us: console, monitor, a file it shares memory through."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost, HostError, PinpointError
from harness.guest import qemu, state, steal_time
from harness.guest.accelerator import Accelerator
from harness.guest.console import Console
from harness.guest.memory import SharedFile
from harness.guest.monitor import Monitor
from harness.images.image import Image

# More than compiles (kbuild.NICE): a kernel that comes late holds up its whole row, a slower guest only its cells.
_NICE = 8
# How long QEMU gets to end after it was told to; it has nothing to save.
_QUIT_SECONDS = 5.0
# A UART's bytes come one by one, and each costs the socket 760 bytes: by default 278 of them fill it. What then waits,
# QEMU 7.2 writes to its log once for each try (qemu_chr_write_buffer(), chardev/char.c), so that characters double.
_CONSOLE_BYTES = 4 << 20
# The forwarding in the monitor's `info usernet` (net/slirp.c): the host's port is before the guest's address.
_FORWARD = re.compile(rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{qemu.SSH_PORT}\s")


class EmulatorKilled(HostError):
    """Something that is neither its guest nor us ended QEMU: another one may live."""


class FrozenRefused(HostError):
    """QEMU does not take a frozen guest."""


class Emulator:
    """A QEMU that has started to run its guest. It dies with this process, however that ends."""

    def __init__(
        self,
        image: Image,
        *,
        console_log: Path,
        accelerator: Accelerator,
        deadline: Deadline,
        frozen: Path | None = None,
    ) -> None:
        """Start QEMU, with the guest that is frozen in a file if one is given.

        Raises HostError when there is none, or with its words when it ends at once; EmulatorKilled; FrozenRefused.
        """
        self.name = image.recipe.name
        self.stopped = False
        self.cpu_seconds = 0.0  # once it has stopped: what all its threads used
        self._open = contextlib.ExitStack()
        try:
            self._start(image, console_log, accelerator, frozen, deadline)
        except BaseException:
            self._open.close()
            raise

    def _start(
        self, image: Image, console_log: Path, accelerator: Accelerator, frozen: Path | None, deadline: Deadline
    ) -> None:
        """What is opened is put on the stack that `stop` closes, the latest first."""
        self.shared = SharedFile.make()
        self._open.callback(self.shared.close)
        self._said = os.memfd_create("pinpoint-qemu-stderr")
        self._open.callback(os.close, self._said)
        console, its_console = socket.socketpair()
        its_console.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BYTES)
        monitor, its_monitor = socket.socketpair()
        with its_console, its_monitor:
            self._open.callback(monitor.close)
            self.console = self._open.enter_context(contextlib.closing(Console(self.name, console, console_log.parent)))
            wiring = qemu.Wiring(
                console=its_console.fileno(),
                monitor=its_monitor.fileno(),
                console_log=console_log,
                kernel=image.kernel,
                initrd=image.initrd,
                incoming=frozen is not None,
                disk=image.disk,
            )
            self.argv = qemu.argv(image.recipe, accelerator, wiring)
            inherited = (wiring.console, wiring.monitor, self.shared.descriptor)
            self._child = process.spawn(self.argv, stdout=self._said, stderr=self._said, pass_fds=inherited, nice=_NICE)
            self._open.callback(process.stop, self._child, _QUIT_SECONDS)
            its_console.close()
            its_monitor.close()
            self.monitor = self._negotiate(monitor, frozen, deadline)
            self._open.callback(self.monitor.close)

    def _negotiate(self, connection: socket.socket, frozen: Path | None, deadline: Deadline) -> Monitor:
        """Let the guest run as soon as QEMU can be heard: it answers when the machine is set up, all its files read."""
        try:
            monitor = Monitor(self.name, connection, deadline)
            if frozen:
                self._take(monitor, frozen, deadline)
            monitor.execute("cont", deadline=deadline)
        except GuestLost:
            raise self._ended("QEMU does not start", HostError) from None
        except DeadlineExceeded:
            raise HostError(f"QEMU does not answer: {self.said() or 'it said nothing'}", where=self.name) from None
        return monitor

    def _take(self, monitor: Monitor, frozen: Path, deadline: Deadline) -> None:
        """Give QEMU the frozen guest."""
        try:
            state.load(monitor, frozen, deadline)
        except GuestLost:
            raise self._ended("QEMU does not take the frozen guest", FrozenRefused) from None
        except GuestError as refusal:
            raise FrozenRefused(refusal.what, where=self.name) from None
        except OSError as error:
            what = f"the frozen guest cannot be read: {error.strerror}"
            raise FrozenRefused(what, where=str(error.filename)) from None

    def _ended(self, what: str, error: type[HostError]) -> HostError:
        """Why QEMU hung up: killed, or with its own words. It closes its sockets before it has written them."""
        return self._killed() or error(f"{what}: {self.said() or 'it said nothing'}", where=self.name)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._child.pid

    @property
    def status(self) -> int | None:
        """QEMU's exit status, negative for the signal that killed it; None while it runs."""
        return self._child.poll()

    @property
    def killed(self) -> EmulatorKilled | None:
        """That something which is neither its guest nor us ended QEMU; None where nothing did."""
        return self._killed() if self.monitor.gone or self.status is not None else None

    def _killed(self) -> EmulatorKilled | None:
        """The same of a QEMU that has hung up: it does so moments before it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_QUIT_SECONDS)
        status = self.status
        if status is None or status >= 0:
            return None
        return EmulatorKilled(f"QEMU was killed by signal {-status}", where=self.name, mend="see the host's own log")

    def ssh_port(self) -> int:
        """The loopback port that QEMU chose and forwards to the guest's SSH server."""
        listing = self.monitor.hmp("info usernet")
        found = _FORWARD.search(listing)
        if found is None:
            raise GuestError("QEMU forwards no port to the guest", where=self.name)
        return int(found[1])

    def said(self) -> str:
        """QEMU's own messages, on one line. Not after `stop`."""
        return " ".join(os.pread(self._said, 1 << 16, 0).decode(errors="replace").split())

    def stop(self) -> None:
        """End QEMU, first asking it to, and let go of everything. Further calls do nothing."""
        self.stopped = True
        if self._child.poll() is None:
            self.cpu_seconds = steal_time.used(self.pid)
            with contextlib.suppress(PinpointError, subprocess.TimeoutExpired):
                self.monitor.execute("quit", deadline=Deadline.after(_QUIT_SECONDS))
                self._child.wait(_QUIT_SECONDS)
        self._open.close()
