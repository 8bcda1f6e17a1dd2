"""OpenSSH's server on the loopback interface, with keys of its own: hosts that ssh reaches, all of them this one.

The server is unpacked from Debian's package and not installed: the package would start a server for the network.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.events import Bus
from harness.images.debian_packages_by_name import Packages
from harness.matrix.hosts import dask_packages

# The server, and its libraries that no other package here depends on.
_PACKAGES = ("openssh-server", "libwrap0", "libnsl2", "libtirpc3")
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
_FETCHING = 300.0
_STARTING = 30.0


class SshdHere:
    """A server that knows hosts `a`, `b` and so on: names in a configuration of ssh, each with a cache of its own.

    `path` is a directory to put first in PATH: its `ssh` reads that configuration. `stop` ends the server.
    """

    def __init__(self, directory: Path, names: Sequence[str] = ("a", "b"), *settings: str) -> None:
        """`settings` are lines of sshd_config."""
        self.directory = directory
        self.path = directory / "bin"
        self.path.mkdir()
        for name in ("host_key", "user_key", "other_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]
            subprocess.run(words, check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._write_client_files(names)
        (directory / "sshd_config").write_text("\n".join([*settings, *self._server_settings()]) + "\n")
        with (directory / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen(self._command(), env=self._environment(), stdout=log, stderr=log)
        end = time.monotonic() + _STARTING
        while "Server listening" not in (directory / "sshd.log").read_text():
            assert self.process.poll() is None, (directory / "sshd.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)

    def hosts_file(self, names: Sequence[str] = ("a", "b"), more: str = "") -> Path:
        """Write a file for --hosts. Each host runs Pinpoint's program with this Python and this environment."""
        place = dask_packages.make_importable()
        module_path = os.pathsep.join([str(paths.PROJECT), str(paths.TESTS), *([str(place)] if place else [])])
        program = self.path / "pinpoint"
        words = ["exec", "env", f"PYTHONPATH={module_path}", sys.executable, "-P", "-m", "harness"]
        program.write_text(f'#!/bin/sh\n{shlex.join(words)} "$@"\n')
        program.chmod(0o755)
        file = self.directory / f"hosts-{'-'.join(names)}.toml"
        cache = {name: self.directory / name / "cache" for name in names}
        file.write_text(
            "".join(
                f'[[host]]\nssh = "{name}"\npinpoint = "{program}"\ncache = "{cache[name]}"\ngib = 8\n{more}\n'
                for name in names
            )
        )
        return file

    def know_host(self, key: str = "host_key") -> None:
        """Write the host key that the client knows, the server's or another one."""
        public = (self.directory / f"{key}.pub").read_text()
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    def stop(self) -> None:
        """End the server. Its connections end with their clients."""
        self.process.kill()
        self.process.wait()

    def _write_client_files(self, names: Sequence[str]) -> None:
        (self.directory / "authorized_keys").write_text((self.directory / "user_key.pub").read_text())
        self.know_host()
        (self.directory / "ssh_config").write_text(
            "".join(f"Host {name}\n  HostKeyAlias [127.0.0.1]:{self.port}\n" for name in names)
            + f"Host *\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentitiesOnly yes\n"
            f"  IdentityFile {self.directory / 'user_key'}\n  UserKnownHostsFile {self.directory / 'known_hosts'}\n"
            "  GlobalKnownHostsFile none\n"
        )
        ssh = self.path / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.directory / "ssh_config"} "$@"\n')
        ssh.chmod(0o755)

    def _server_settings(self) -> list[str]:
        return [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.directory / 'host_key'}",
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}",
            "PidFile none",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
        ]

    def _command(self) -> list[str]:
        words = [str(_unpacked() / "usr/sbin/sshd"), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        if os.geteuid():
            return words
        # As root the server wants a user of its own, which its package makes: here only this server sees it.
        users = self.directory / "passwd"
        users.write_text(Path("/etc/passwd").read_text() + "sshd:x:65432:65534::/run/sshd:/usr/sbin/nologin\n")
        script = f"mount --bind {users} /etc/passwd && mkdir -p /run/sshd && exec {shlex.join(words)}"
        return ["unshare", "--mount", "sh", "-c", script]

    def _environment(self) -> dict[str, str]:
        libraries = sorted({str(path.parent) for path in _unpacked().rglob("*.so.*")})
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def _unpacked() -> Path:
    """Return the directory of the unpacked packages, fetched once."""
    place = paths.cache() / "tests-sshd"
    if not (place / "complete").exists():
        packages = Packages(paths.cache() / "apt", Bus(), suites=["bookworm"])
        for name in _PACKAGES:
            file = packages.fetch(name, _ARCHITECTURE[os.uname().machine], deadline=Deadline.after(_FETCHING))
            packages.unpack_deb(file, place)
        (place / "complete").touch()
    return place
