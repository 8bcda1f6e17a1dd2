"""virtme-ng, the peer: it boots a kernel for each command, with the host's own files as its root file system."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.bench.figure import Absent
from harness.bench.race import Measure
from harness.core import locks, paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError, PinpointError
from harness.core.files import sha256
from harness.images import rootfs
from harness.images.apt_state import native
from harness.images.image import Image
from harness.images.workshop import Workshop
from harness.verdict.printk import plain

_LOCKED = paths.PROJECT / "requirements-bench.txt"
_STAMP = "complete"
_INSTALLING, _FETCHING, _BOOTING = 300.0, 300.0, 300.0
# What vng asks of the host, by name in PATH; both are links to kmod.
_KMOD = ("depmod", "modprobe")
_LIBRARIES = "LD_LIBRARY_PATH"


def beside(image: Image, workshop: Workshop, scratch: Path, log: Path) -> Measure | Absent:
    """Boots the image's kernel, as its package has it, with its own modules. What is unpacked goes to `scratch`.

    It is absent where it cannot be installed, or does not boot this kernel here; `log` has the details.
    """
    try:
        program = _program(log)
        surroundings = _surroundings(image, workshop, scratch, program.parent)
        peer = _Peer(program, _kernel(image, workshop, scratch), surroundings, log)
        said = peer.run("uname", "-r")
    except PinpointError as error:
        return Absent(f"not installed: {error}")
    if image.release not in said:
        return Absent(f"vng boots another kernel: {plain(said).strip()[-80:]}")
    return peer.boot


@dataclass(frozen=True)
class _Peer:
    """An installed vng with a kernel for it."""

    program: Path
    kernel: Path
    environment: Mapping[str, str]
    log: Path

    def argv(self, *command: str) -> list[str]:
        """Its command line. --force-9p: its other way needs a daemon that Debian 12 does not have."""
        return [str(self.program), "-r", str(self.kernel), "--disable-kvm", "--force-9p", "--", *command]

    def boot(self) -> float:
        """Seconds of the whole process."""
        return self._ended("true").seconds

    def run(self, *command: str) -> str:
        """What a command prints in a guest."""
        return self._ended(*command).output

    def _ended(self, *command: str) -> process.Finished:
        words = self.argv(*command)
        done = process.run(words, deadline=Deadline.after(_BOOTING), env=self.environment)
        with self.log.open("a") as log:
            log.write(f"{shlex.join(words)}: status {done.rc} in {done.seconds:.2f} s\n{done.output}\n")
        if done.rc:
            last = plain(done.output).strip().rpartition("\n")[2]
            raise HostError(f"vng ended with status {done.rc}: {last}", where=str(self.log))
        return done


def _program(log: Path) -> Path:
    """The host's vng, or one of our own: the versions of requirements-bench.txt, by hash, in an environment of its own.

    Raises HostError when it cannot be installed.
    """
    found = shutil.which("vng")
    if found:
        return Path(found)
    environment = paths.cache() / f"bench-{sha256(_LOCKED)[:16]}"
    with locks.held(paths.cache() / "bench.lock", deadline=Deadline.after(_INSTALLING), on_wait=lambda _: None):
        if not (environment / _STAMP).exists():
            shutil.rmtree(environment, ignore_errors=True)
            _install([sys.executable, "-m", "venv", str(environment)], log)
            pip = [str(environment / "bin/python"), "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps"]
            _install([*pip, "--disable-pip-version-check", "--no-input", "--requirement", str(_LOCKED)], log)
            (environment / _STAMP).touch()
    return environment / "bin/vng"


def _install(argv: list[str], log: Path) -> None:
    if process.run(argv, deadline=Deadline.after(_INSTALLING), log=log).rc:
        raise HostError(f"what {_LOCKED.name} names cannot be installed", where=str(log))


def _kernel(image: Image, workshop: Workshop, scratch: Path) -> Path:
    """The packaged kernel where vng expects it: its modules below the same root."""
    architecture = image.recipe.architecture.debian
    root = scratch / "kernel"
    package = workshop.packages.fetch(
        f"linux-image-{image.release}", str(architecture), deadline=Deadline.after(_FETCHING)
    )
    workshop.packages.unpack(package, root)
    return root / f"boot/vmlinuz-{image.release}"


def _surroundings(image: Image, workshop: Workshop, scratch: Path, own: Path) -> Mapping[str, str]:
    """Environment variables with which vng finds a home, a busybox for its guest, and kmod, where the host has none.

    `own` is where it finds its own programs.
    """
    programs, home = scratch / "bin", scratch / "home"
    for directory in (programs, home):
        directory.mkdir()
    (programs / "busybox").symlink_to(rootfs.obtain_userland(image.recipe, workshop).path / "root/bin/busybox")
    found = {"HOME": str(home), "PATH": f"{own}:{programs}:{os.environ['PATH']}"}
    if all(shutil.which(name) for name in _KMOD):
        return found
    unpacked = scratch / "kmod"
    for package in ("kmod", "libkmod2"):
        file = workshop.packages.fetch(package, native(), deadline=Deadline.after(_FETCHING))
        workshop.packages.unpack(file, unpacked)
    for name in _KMOD:
        (programs / name).symlink_to(unpacked / "bin/kmod")
    library = next(unpacked.rglob("libkmod.so.2"), None)
    if library is None:
        raise HostError("vng needs kmod", mend="install the package kmod")
    return {**found, _LIBRARIES: str(library.parent)}
