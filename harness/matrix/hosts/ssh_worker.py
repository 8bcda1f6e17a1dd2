"""The Dask worker that a controller starts on a host over ssh. It ends with the controller, or with the connection.

It prints the port that it will listen on, and reads its settings from standard input; the certificate stays in memory.
After the settings the controller sends a line every few seconds. Without one for a minute, and at the end of the input,
the worker ends with its processes and guests.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ConfigDict

from harness.core import paths, process
from harness.core.errors import HostError
from harness.matrix.hosts import dask_packages, work_on_host

# Before the port, in the line that the worker prints: a shell's own start-up files may print other lines.
GREETING = "pinpoint worker listens on port "
PULSE_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
# How long it waits for the scheduler.
_DEATH_SECONDS = 60.0
_ENDING_SECONDS = 5.0
# A process of a shard waits in one thread. Two processes share a core, and images arrive in others.
SPARE_THREADS = 2
LOOPBACK = "127.0.0.1"
_LISTEN = "0A"


class WorkerSettings(BaseModel):
    """What the controller sends, a JSON object on one line.

    `scheduler_port` is the port of this host that ssh forwards to the scheduler, `contact_port` that of the
    controller's host that ssh forwards to this worker. `certificate` and `key` are in PEM, and are the run's only ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    port: int
    scheduler_port: int
    contact_port: int
    certificate: str
    key: str
    cores: int | None
    gib: int | None


def run() -> NoReturn:
    """Run the worker. Raises HostError for settings that are not complete, and for a port that the network reaches."""
    dask_packages.make_importable()
    print(f"{GREETING}{free_port()}", flush=True)
    # What Dask or a task prints goes to the controller's log of this host.
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        raise HostError("the controller sent no settings")
    settings = WorkerSettings.model_validate_json(line)
    demand_loopback(settings.scheduler_port)
    threading.Thread(target=_end_with_controller, name="controller", daemon=True).start()
    with suppress(OSError, TimeoutError):
        asyncio.run(_work(settings))
    _end()


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    return port


def demand_loopback(port: int) -> None:
    """Raise HostError if a port of this host listens on another interface: sshd does so with `GatewayPorts yes`."""
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        with suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, number = local.partition(":")
                if state == _LISTEN and int(number, 16) == port and address != loopback:
                    mend = "set GatewayPorts to no, its default, in sshd_config there"
                    raise HostError("its sshd opens forwarded ports to the network", mend=mend)


async def _work(settings: WorkerSettings) -> None:
    import dask
    from distributed import Security, Worker

    # Without routes its HTTP server answers nothing; Dask starts one in any case.
    dask.config.set({"distributed.worker.http.routes": []})
    security = Security(
        tls_ca_file=settings.certificate,
        tls_worker_cert=settings.certificate,
        tls_worker_key=settings.key,
        tls_client_cert=settings.certificate,
        tls_client_key=settings.key,
        require_encryption=True,
    )
    cores = min(settings.cores or sys.maxsize, len(os.sched_getaffinity(0)))
    async with Worker(
        f"tls://{LOOPBACK}:{settings.scheduler_port}",
        security=security,
        protocol="tls://",
        host=LOOPBACK,
        port=settings.port,
        contact_address=f"tls://{LOOPBACK}:{settings.contact_port}",
        dashboard_address=f"{LOOPBACK}:0",
        name=settings.name,
        nthreads=2 * cores + SPARE_THREADS,
        resources={"core": cores, **({"gib": settings.gib} if settings.gib else {})},
        memory_limit=0,
        death_timeout=_DEATH_SECONDS,
        local_directory=str(paths.cache() / "dask"),
    ) as worker:
        await worker.finished()


def _end_with_controller() -> NoReturn:
    """Wait for the end of the controller, of the connection, or of what the controller sends. Then end."""
    ready = select.poll()
    ready.register(0, select.POLLIN)
    while ready.poll(_SILENCE_SECONDS * 1000) and os.read(0, 1 << 12):
        pass
    _end()


def _end() -> NoReturn:
    """End the processes of shards with their guests, and this process at once: Dask would wait for its scheduler."""
    process.stop_all()
    end = time.monotonic() + _ENDING_SECONDS
    while work_on_host.DIRECTORIES and time.monotonic() < end:
        time.sleep(0.1)
    for directory in list(work_on_host.DIRECTORIES):
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)
