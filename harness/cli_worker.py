"""The commands that make a cluster of hosts: scheduler, worker."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from harness.cli_common import example_epilog
from harness.core import paths
from harness.core.errors import UsageError
from harness.matrix.hosts import dask_packages

# A process of a shard waits in one thread. Two processes share a core, and images arrive in others.
_SPARE_THREADS = 2
_DEATH_SECONDS = 60
_TLS = click.option(
    "--tls",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The directory of ca.pem, cert.pem and key.pem.",
)


@click.command(epilog=example_epilog("scheduler --tls /etc/pinpoint --host 192.0.2.1"))
@_TLS
@click.option("--host", required=True, metavar="ADDRESS", help="Listen on this address of the host only.")
@click.option("--port", type=click.IntRange(1, 65535), default=8786, show_default=True, metavar="N")
def scheduler(tls: Path, host: str, port: int) -> NoReturn:
    """Run the Dask scheduler of a cluster of hosts: docs/hosts.md."""
    _become("dask_scheduler", tls, ["--host", f"tls://{host}", "--port", str(port), "--no-dashboard"])


@click.command(epilog=example_epilog("worker tls://lab1:8786 --tls /etc/pinpoint"))
@click.argument("address", metavar="tls://HOST:PORT")
@_TLS
@click.option("--name", default=None, metavar="NAME", help="The name of this host in the cluster.")
@click.option("--host", default=None, metavar="ADDRESS", help="Listen on this address of the host only.")
@click.option("--cores", type=click.IntRange(1), default=None, metavar="N", help="Use at most N cores.")
@click.option("--gib", type=click.IntRange(1), default=None, metavar="N", help="Use at most N GiB of memory.")
def worker(address: str, tls: Path, name: str | None, host: str | None, cores: int | None, gib: int | None) -> NoReturn:
    """Run rows on this host for the cluster of a Dask scheduler: docs/hosts.md."""
    if not address.startswith("tls://"):
        mend = f"start it with {paths.PROGRAM} scheduler: docs/hosts.md"
        raise UsageError(f"{address[:60]!r} is not protected by TLS", mend=mend)
    count = min(cores or sys.maxsize, len(os.sched_getaffinity(0)))
    resources = {"core": count, **({"gib": gib} if gib else {})}
    words = [
        *(address, "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--death-timeout", str(_DEATH_SECONDS)),
        *("--name", name or socket.gethostname(), "--nthreads", str(2 * count + _SPARE_THREADS), "--nworkers", "1"),
        *("--resources", " ".join(f"{key}={value}" for key, value in resources.items())),
        *("--local-directory", str(paths.cache() / "dask")),
        *(("--host", host) if host else ()),
    ]
    _become("dask_worker", tls, words)


@click.command(hidden=True)
def ssh_worker_of_run() -> NoReturn:
    """Run rows on this host for a controller that has started this command over ssh."""
    from harness.matrix.hosts import ssh_worker

    ssh_worker.run()


def _become(program: str, tls: Path, words: Sequence[str]) -> NoReturn:
    """Replace this process by one of Dask's. Raises UsageError for a missing certificate, HostError without Dask."""
    for file in ("ca.pem", "cert.pem", "key.pem"):
        if not (tls / file).is_file():
            raise UsageError(f"{tls / file} is missing", where="--tls", mend="see docs/hosts.md")
    place = dask_packages.make_importable()
    module_path = [*([] if paths.INSTALLED else [str(paths.PROJECT)]), *([str(place)] if place else [])]
    files = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    certificates = [f"--tls-{name}={tls / file}" for name, file in files.items()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(module_path)}
    sys.stdout.flush()
    argv = [sys.executable, "-P", "-m", f"distributed.cli.{program}", *words, *certificates]
    os.execve(sys.executable, argv, environment)
