"""A Dask cluster on this host: a scheduler, and workers with caches of their own that stand in for hosts."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from broken_runs import environment
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness.core import paths
from harness.matrix.hosts import dask_packages

_STARTING = 120.0


class ClusterHere:
    """A scheduler with TLS, and its workers by name. `stop` ends all of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tls = directory / "tls"
        place = dask_packages.make_importable()
        self.module_path = os.pathsep.join([str(paths.PROJECT), str(paths.TESTS), *([str(place)] if place else [])])
        make_certificates(self.tls)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"tls://127.0.0.1:{free.getsockname()[1]}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        words: list[str | Path] = ["harness", "scheduler", "--tls", self.tls, "--host", "127.0.0.1", "--port"]
        self._start("scheduler", [*words, self.address.rpartition(":")[2]], directory)

    def start_worker(self, name: str) -> None:
        """Start a worker, with a cache of its own below its name."""
        words: list[str | Path] = [
            "harness",
            "worker",
            self.address,
            "--tls",
            self.tls,
            "--name",
            name,
            "--host",
            "127.0.0.1",
        ]
        self._start(name, [*words, "--gib", "8"], self.directory / name)

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL."""
        self.running[name].kill()
        self.running.pop(name).wait()

    def wait_for_workers(self, count: int) -> None:
        """Wait until the scheduler has so many workers."""
        end = time.monotonic() + _STARTING
        log = self.directory / "scheduler.log"
        while (text := log.read_text()).count("Register worker") - text.count("Remove worker") < count:
            assert time.monotonic() < end, text
            time.sleep(0.1)

    def stop(self) -> None:
        """End all processes."""
        for name in list(self.running):
            self.kill(name)

    def variables(self, directory: Path) -> dict[str, str]:
        """Return the environment of a run in a directory.

        Dask's client refreshes its list of workers all the time, and not every 2 s: the new list has no workers, and a
        run that reads it has lost its hosts.
        """
        refresh = {"DASK_DISTRIBUTED__CLIENT__SCHEDULER_INFO_INTERVAL": "10ms"}
        return {**environment(directory), "PYTHONPATH": self.module_path, **refresh}

    def _start(self, name: str, words: Sequence[str | Path], directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", *words],
                env=self.variables(directory),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def make_certificates(directory: Path) -> None:
    """Write a certificate authority, and a certificate that it signed for every process of the cluster."""
    directory.mkdir()
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _signed("authority", authority_key, authority_key, None, ca=True)
    own = _signed("cluster", key, authority_key, authority, ca=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (directory / "cert.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(private)


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    by: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    *,
    ca: bool,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(by, hashes.SHA256())
    )
