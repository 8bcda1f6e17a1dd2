"""The hosts of `--hosts`: a scheduler in the controller's process, and a worker on each host, which ssh starts.

ssh forwards two ports for each host, one to the scheduler and one to the worker; all of them are on loopback
interfaces. The certificate is made for the run and goes to the workers through ssh.

Dask's own SSHCluster is not used: its scheduler and workers listen on the network, certificates must be on each host,
and it needs asyncssh, which reads only a part of ssh's configuration.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import Bus, ProgressStep
from harness.matrix.hosts import ssh_worker
from harness.matrix.hosts.hosts_file import HostEntry
from harness.matrix.hosts.ssh_worker import GREETING, LOOPBACK, PULSE_SECONDS, WorkerSettings
from harness.verdict.printk import without_control_codes

# A first start there installs the packages of Python, and on Debian those of the host.
_STARTING = 900.0
_JOINING = 120.0
_CONTROL = 30.0
_GRACE = 10.0
_LOOK_SECONDS = 0.5
_TRIES = 5
# Host keys, users and keys are as ssh's own configuration has them. No question is asked: several start at once.
_OPTIONS = (
    *("-T", "-a", "-x", "-M"),
    *("-o", "BatchMode=yes", "-o", "ControlPersist=no", "-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ConnectTimeout=30"),
)


class SshHosts:
    """The scheduler of a run and its hosts; `start` makes them, `close` ends them."""

    def __init__(self, entries: Sequence[HostEntry], logs: Path, bus: Bus) -> None:
        """`logs` is the directory for what ssh and the workers print."""
        from distributed import Security

        self._bus = bus
        self._security = Security.temporary()
        self._sockets = tempfile.TemporaryDirectory(prefix="pinpoint-ssh-")
        logs.mkdir(parents=True, exist_ok=True)
        self._hosts = [
            _SshHost(entry, Path(self._sockets.name, str(number)), logs / f"host-{number}-{entry.ssh}.log")
            for number, entry in enumerate(entries)
        ]
        self._scheduler: Any = None
        self._closing = threading.Event()

    def start(self) -> Any:  # noqa: ANN401 - a class of Dask
        """Start the scheduler and all workers; return a client. Raises HostError if a host does not join."""
        import dask
        from distributed import Client, LocalCluster

        with dask.config.set({"distributed.scheduler.http.routes": []}):
            self._scheduler = LocalCluster(
                n_workers=0,
                host=LOOPBACK,
                protocol="tls://",
                security=self._security,
                dashboard_address=None,
                scheduler_kwargs={"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
            )
        port = int(self._scheduler.scheduler_address.rpartition(":")[2])
        with ThreadPoolExecutor(len(self._hosts), thread_name_prefix="ssh") as pool:
            joining = [pool.submit(self._join, host, port) for host in self._hosts]
            try:
                for each in joining:
                    each.result()
            except BaseException:
                self._closing.set()
                raise
        client = Client(self._scheduler, security=self._security, set_as_default=False)
        threading.Thread(target=self._send_pulses, name="pulses", daemon=True).start()
        return client

    def close(self) -> None:
        """End the workers, ssh and the scheduler."""
        self._closing.set()
        for host in self._hosts:
            host.begin_to_end()
        end = Deadline.after(_GRACE)
        for host in self._hosts:
            host.end(end)
        with suppress(Exception):
            if self._scheduler is not None:
                self._scheduler.close(timeout=_GRACE)
        self._sockets.cleanup()

    def _join(self, host: _SshHost, scheduler_port: int) -> None:
        tls = self._security.get_tls_config_for_role("worker")
        with self._bus.step(host.entry.ssh, "connect") as step:
            settings = host.connect(scheduler_port, tls["cert"], tls["key"], step, self._closing)
            host.send(settings.model_dump_json().encode() + b"\n")
            end = time.monotonic() + _JOINING
            address = f"tls://{LOOPBACK}:{settings.contact_port}"
            while address not in self._scheduler.scheduler.workers:
                host.demand_running(self._closing, end)
                time.sleep(_LOOK_SECONDS / 10)

    def _send_pulses(self) -> None:
        while not self._closing.wait(PULSE_SECONDS):
            for host in self._hosts:
                host.send(b"\n")


class _SshHost:
    """The ssh of one host. It is the master of a connection that the requests for forwarded ports share."""

    def __init__(self, entry: HostEntry, socket: Path, log: Path) -> None:
        self.entry = entry
        self._socket = socket
        self._log = log
        self._ssh: subprocess.Popen[bytes] | None = None

    def connect(
        self, scheduler_port: int, certificate: str, key: str, step: ProgressStep, closing: threading.Event
    ) -> WorkerSettings:
        """Start the worker, and forward both ports. Raises HostError, one line that names the host."""
        entry = self.entry
        cache = [f"PINPOINT_CACHE={entry.cache}"] if entry.cache else []
        command = shlex.join(["env", *cache, entry.pinpoint, "ssh-worker"])
        with self._log.open("wb") as log:
            words = ["ssh", *_OPTIONS, "-S", str(self._socket), "--", entry.ssh, command]
            self._ssh = process.spawn(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        port = self._greeting(closing)
        step.publish_progress("forward")
        from_there = self._forward("-R", f"{LOOPBACK}:0:{LOOPBACK}:{scheduler_port}")
        contact_port = self._forward_to(port)
        return WorkerSettings(
            name=entry.ssh,
            port=port,
            scheduler_port=int(from_there),
            contact_port=contact_port,
            certificate=certificate,
            key=key,
            cores=entry.cores,
            gib=entry.gib,
        )

    def send(self, content: bytes) -> None:
        """Write to the worker's standard input. That of a host that is gone takes nothing; its tasks show that."""
        with suppress(OSError, ValueError):
            if self._ssh and self._ssh.stdin:
                self._ssh.stdin.write(content)
                self._ssh.stdin.flush()

    def demand_running(self, closing: threading.Event, end: float) -> None:
        """Raise HostError if ssh has ended, if the time is over, or if another host could not be started."""
        if self._ssh is None or self._ssh.poll() is not None:
            raise self._refused("cannot be used")
        if closing.is_set() or process.is_stopping():
            raise HostError("is not used: the run ends", where=self._where)
        if time.monotonic() > end:
            raise self._refused("did not start its worker in time")

    def begin_to_end(self) -> None:
        """Close the worker's standard input: it ends, and ssh with it."""
        with suppress(OSError, ValueError):
            if self._ssh and self._ssh.stdin:
                self._ssh.stdin.close()

    def end(self, deadline: Deadline) -> None:
        """Wait for ssh to end; end it if it does not."""
        if not self._ssh:
            return
        with suppress(subprocess.TimeoutExpired):
            self._ssh.wait(max(0.1, deadline.remaining()))
        process.stop(self._ssh)
        if self._ssh.stdout:
            self._ssh.stdout.close()

    @property
    def _where(self) -> str:
        return f"host {self.entry.ssh}"

    def _greeting(self, closing: threading.Event) -> int:
        """Read lines until the worker's own; return the port in it."""
        assert self._ssh is not None
        assert self._ssh.stdout is not None
        end, rest = time.monotonic() + _STARTING, b""
        ready = select.poll()
        ready.register(self._ssh.stdout, select.POLLIN)
        while True:
            if ready.poll(_LOOK_SECONDS * 1000):
                content = os.read(self._ssh.stdout.fileno(), 1 << 12)
                if not content:
                    self._ssh.wait(_GRACE)
                *lines, rest = (rest + content).split(b"\n")
                for line in lines:
                    _, found, port = line.decode(errors="replace").partition(GREETING)
                    if found and port.strip().isdecimal():
                        return int(port)
            self.demand_running(closing, end)

    def _forward_to(self, port: int) -> int:
        """Forward a free port of this host to the worker's; another process can take it first, so try some."""
        for last in (*[False] * (_TRIES - 1), True):
            own = ssh_worker.free_port()
            try:
                self._forward("-L", f"{LOOPBACK}:{own}:{LOOPBACK}:{port}")
            except HostError:
                if last:
                    raise
            else:
                break
        return own

    def _forward(self, direction: str, ports: str) -> str:
        """Let the running ssh forward a port; return what it prints, which is the port if ssh chose it."""
        # Without a configuration: forwardings in the user's own would be requested, too.
        words = ["ssh", "-F", "none", "-S", str(self._socket), "-O", "forward", direction, ports, "--", self.entry.ssh]
        done = process.run(words, deadline=Deadline.after(_CONTROL))
        if done.rc:
            reason = _last_line(done.output) or _last_line(self._log.read_text(errors="replace"))
            mend = "its sshd must allow TCP forwarding (AllowTcpForwarding)"
            raise HostError(f"no port can be forwarded: {reason}", where=self._where, mend=mend)
        return done.output.strip()

    def _refused(self, what: str) -> HostError:
        reason = _last_line(self._log.read_text(errors="replace")) or "it printed no reason"
        return HostError(f"{what}: {reason}", where=self._where, mend=f"try: ssh {self.entry.ssh}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in without_control_codes(text.replace("\r", "")).splitlines()]
    return next((line for line in reversed(lines) if line), "")[:300]
