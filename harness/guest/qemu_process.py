"""One QEMU process and its connections to the harness: console, monitor, and a file for guest memory."""

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
from harness.guest import qemu, qemu_rights, save_and_load_state, steal_time
from harness.guest.accelerator import Accelerator
from harness.guest.console import Console
from harness.guest.monitor import Monitor
from harness.guest.read_guest_memory import SharedFile
from harness.guest.size_limited_console_log import ConsoleLog
from harness.images.image import Image

# A higher nice value than compiles have (kbuild.NICE): a late kernel delays its whole row, a slow guest only its cells.
_NICE = 8
# How long QEMU may take to end after `quit`; it has nothing to save.
_QUIT_SECONDS = 5.0
# A UART writes bytes one by one, and each takes 760 bytes of the socket buffer: 278 bytes fill a default buffer. When
# it is full, QEMU 7.2 logs a byte at each retry (qemu_chr_write_buffer(), chardev/char.c): the log repeats characters.
_CONSOLE_BYTES = 4 << 20
# The forwarded port in the monitor's `info usernet` (net/slirp.c): the host's port precedes the guest's address.
_FORWARD = re.compile(rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{qemu.SSH_PORT}\s")


class QemuKilled(HostError):
    """Something other than the guest or the harness ended QEMU; another QEMU may survive."""


class FrozenGuestRefused(HostError):
    """QEMU refuses a frozen guest."""


class QemuProcess:
    """A QEMU that has started to run its guest; it dies with this process in every case."""

    def __init__(
        self,
        image: Image,
        *,
        console_log: Path,
        accelerator: Accelerator,
        deadline: Deadline,
        frozen: Path | None = None,
    ) -> None:
        """Start QEMU; with `frozen`, load the frozen guest from that file.

        Raises HostError when QEMU is not installed, or with QEMU's messages when it ends at once; QemuKilled;
        FrozenGuestRefused.
        """
        self.name = image.recipe.name
        self.stopped = False
        self.cpu_seconds = 0.0  # set when QEMU has stopped: the CPU time of all its threads
        self._open = contextlib.ExitStack()
        try:
            self._start(image, console_log, accelerator, frozen, deadline)
        except BaseException:
            self._open.close()
            raise

    def _start(
        self, image: Image, console_log: Path, accelerator: Accelerator, frozen: Path | None, deadline: Deadline
    ) -> None:
        """Open the connections and start QEMU; each resource goes on the stack that `stop` closes in reverse order."""
        self.shared = SharedFile.make_empty()
        self._open.callback(self.shared.close)
        self._stderr = os.memfd_create("pinpoint-qemu-stderr")
        self._open.callback(os.close, self._stderr)
        console, its_console = socket.socketpair()
        its_console.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BYTES)
        monitor, its_monitor = socket.socketpair()
        with its_console, its_monitor:
            self._open.callback(monitor.close)
            log = ConsoleLog(console_log)
            self.console = self._open.enter_context(
                contextlib.closing(Console(self.name, console, console_log.parent, log))
            )
            wiring = qemu.QemuFiles(
                console_descriptor=its_console.fileno(),
                monitor_descriptor=its_monitor.fileno(),
                kernel=image.kernel,
                initrd=image.initrd,
                awaits_frozen_guest=frozen is not None,
                disk=image.disk,
            )
            self.argv = qemu.argv(image.recipe, accelerator, wiring)
            inherited = (wiring.console_descriptor, wiring.monitor_descriptor, self.shared.descriptor)
            reads = [image.kernel, image.initrd, *([image.disk] if image.disk else [])]
            self._child = process.spawn(
                self.argv,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=inherited,
                nice=_NICE,
                rights=qemu_rights.qemu_process_rights(self.argv[0], not accelerator.emulated, reads),
            )
            self._open.callback(process.stop, self._child, _QUIT_SECONDS)
            its_console.close()
            its_monitor.close()
            self.monitor = self._negotiate(monitor, frozen, deadline)
            self._open.callback(self.monitor.close)

    def _negotiate(self, connection: socket.socket, frozen: Path | None, deadline: Deadline) -> Monitor:
        """Connect the monitor and let the guest run; QEMU replies once the machine is set up and all files are read."""
        try:
            monitor = Monitor(self.name, connection, deadline)
            if frozen:
                self._take(monitor, frozen, deadline)
            monitor.execute("cont", deadline=deadline)
        except GuestLost:
            raise self._ended("QEMU does not start", HostError) from None
        except DeadlineExceeded:
            raise HostError(
                f"QEMU does not answer: {self.qemu_messages() or 'it printed nothing'}", where=self.name
            ) from None
        return monitor

    def _take(self, monitor: Monitor, frozen: Path, deadline: Deadline) -> None:
        """Load the frozen guest into QEMU."""
        try:
            save_and_load_state.load_guest_state(monitor, frozen, deadline)
        except GuestLost:
            raise self._ended("QEMU does not take the frozen guest", FrozenGuestRefused) from None
        except GuestError as refusal:
            raise FrozenGuestRefused(refusal.what, where=self.name) from None
        except OSError as error:
            what = f"the frozen guest cannot be read: {error.strerror}"
            raise FrozenGuestRefused(what, where=str(error.filename)) from None

    def _ended(self, what: str, error: type[HostError]) -> HostError:
        """Return why QEMU closed the connection: it was killed, or its messages, which it prints after closing."""
        return self._killed() or error(f"{what}: {self.qemu_messages() or 'it printed nothing'}", where=self.name)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._child.pid

    @property
    def exit_status(self) -> int | None:
        """QEMU's exit status, negative for the signal that killed it; None while it runs."""
        return self._child.poll()

    @property
    def kill_error(self) -> QemuKilled | None:
        """The error if something other than the guest or the harness ended QEMU; None otherwise."""
        return self._killed() if self.monitor.gone or self.exit_status is not None else None

    def _killed(self) -> QemuKilled | None:
        """Return the same for a QEMU that has closed the connection, which happens moments before it ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_QUIT_SECONDS)
        status = self.exit_status
        if status is None or status >= 0:
            return None
        return QemuKilled(f"QEMU was killed by signal {-status}", where=self.name, mend="see the host's own log")

    def ssh_port(self) -> int:
        """Return the loopback port that QEMU chose and forwards to the guest's SSH server."""
        listing = self.monitor.hmp("info usernet")
        found = _FORWARD.search(listing)
        if found is None:
            raise GuestError("QEMU forwards no port to the guest", where=self.name)
        return int(found[1])

    def qemu_messages(self) -> str:
        """Return QEMU's own messages on one line. Must not be called after `stop`."""
        return " ".join(os.pread(self._stderr, 1 << 16, 0).decode(errors="replace").split())

    def stop(self) -> None:
        """End QEMU, by the monitor's `quit` if possible, and release all resources. Further calls do nothing."""
        self.stopped = True
        if self._child.poll() is None:
            self.cpu_seconds = steal_time.cpu_seconds_used(self.pid)
            with contextlib.suppress(PinpointError, subprocess.TimeoutExpired):
                self.monitor.execute("quit", deadline=Deadline.after(_QUIT_SECONDS))
                self._child.wait(_QUIT_SECONDS)
        self._open.close()
