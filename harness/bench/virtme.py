"""virtme-ng, the peer: it boots a kernel for each command, with the host's own files as its root file system."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import UnavailableSide
from harness.core import locks, paths, process
from harness.core.deadline import Deadline
from harness.core.errors import HostError, PinpointError
from harness.core.files import sha256
from harness.images import rootfs
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.private_apt import host_debian_architecture
from harness.verdict.printk import without_control_codes

_LOCKED = paths.PROJECT / "requirements-bench.txt"
_STAMP = "complete"
_INSTALLING, _FETCHING, _BOOTING = 300.0, 300.0, 300.0
# The programs that vng requires in PATH; both are links to kmod.
_KMOD = ("depmod", "modprobe")
# The line that its guest's init prints on the console when the command succeeded. A guest with udev has a port for the
# status, and prints no such line; vng's own status is then 0, and 255 if the guest wrote no status (virtme-ng 1.42).
_WELL = "script exited with code 0"
_LIBRARIES = "LD_LIBRARY_PATH"


def virtme_measure(image: Image, build_context: BuildContext, scratch: Path, log: Path) -> Measure | UnavailableSide:
    """Return the measure that boots the image's packaged kernel with the package's own modules, unpacked to `scratch`.

    Returns UnavailableSide if vng cannot be installed or does not boot this kernel here; `log` has the details.
    """
    try:
        program = _program(log)
        surroundings = _surroundings(image, build_context, scratch, program.parent)
        peer = _Peer(program, _kernel(image, build_context, scratch), surroundings, log)
    except PinpointError as error:
        return UnavailableSide(f"not installed: {error}")
    tried = peer.run("uname", "-r", verbose=True)
    output = without_control_codes(tried.output)
    booted = re.search(rf"^{re.escape(image.release)}\s*$", output, re.M)
    if not booted or (tried.rc != 0 and _WELL not in output):
        return UnavailableSide(f"vng does not boot this kernel here, status {tried.rc}; see {log}")
    return replace(peer, status=tried.rc).boot


@dataclass(frozen=True)
class _Peer:
    """An installed vng with a kernel for it. `status` is its exit status after a command that succeeded.

    That is 0 where the host has udev. Elsewhere its guest finds no port for the command's status and uses its console.
    It still boots, and saves the time that udev takes.
    """

    program: Path
    kernel: Path
    environment: Mapping[str, str]
    log: Path
    status: int = 0

    def argv(self, *command: str) -> list[str]:
        """Its command line. --force-9p, because virtiofs needs a daemon that Debian 12 does not have."""
        return [str(self.program), "-r", str(self.kernel), "--disable-kvm", "--force-9p", "--", *command]

    def boot(self) -> float:
        """The seconds of the whole process. Raises HostError when its exit status is not `self.status`."""
        done = self.run("true")
        if done.rc != self.status:
            raise HostError(f"vng ended with status {done.rc}, not {self.status}", where=str(self.log))
        return done.seconds

    def run(self, *command: str, verbose: bool = False) -> process.FinishedProcess:
        """Run a command in a guest; `verbose` shows its kernel's log too."""
        program, *words = self.argv(*command)
        words = [program, *(["--verbose"] if verbose else []), *words]
        done = process.run(words, deadline=Deadline.after(_BOOTING), env=self.environment)
        with self.log.open("a") as log:
            log.write(f"{shlex.join(words)}: status {done.rc} in {done.seconds:.2f} s\n{done.output}\n")
        return done


def _program(log: Path) -> Path:
    """Return the host's vng, or install the hashed versions of requirements-bench.txt into an environment of our own.

    Raises HostError when it cannot be installed.
    """
    found = shutil.which("vng")
    if found:
        return Path(found)
    environment = paths.cache() / f"bench-{sha256(_LOCKED)[:16]}"
    with locks.hold_lock(paths.cache() / "bench.lock", deadline=Deadline.after(_INSTALLING), on_wait=lambda _: None):
        if not (environment / _STAMP).exists():
            shutil.rmtree(environment, ignore_errors=True)
            _install([sys.executable, "-m", "venv", str(environment)], log)
            pip = [str(environment / "bin/python"), "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps"]
            _install([*pip, "--disable-pip-version-check", "--no-input", "--requirement", str(_LOCKED)], log)
            (environment / _STAMP).touch()
    return environment / "bin/vng"


def _install(argv: list[str], log: Path) -> None:
    if process.run(argv, deadline=Deadline.after(_INSTALLING), log=log).rc:
        raise HostError(f"the packages in {_LOCKED.name} cannot be installed", where=str(log))


def _kernel(image: Image, build_context: BuildContext, scratch: Path) -> Path:
    """Unpack the packaged kernel as vng expects it, with its modules below the same root; return its file."""
    architecture = image.recipe.architecture.debian
    root = scratch / "kernel"
    package = build_context.packages.fetch(
        f"linux-image-{image.release}", str(architecture), deadline=Deadline.after(_FETCHING)
    )
    build_context.packages.unpack_deb(package, root)
    return root / f"boot/vmlinuz-{image.release}"


def _surroundings(image: Image, build_context: BuildContext, scratch: Path, own: Path) -> Mapping[str, str]:
    """Return environment variables for vng: a home, a busybox for its guest, and kmod if the host has none.

    `own` is the directory of its own programs.
    """
    programs, home = scratch / "bin", scratch / "home"
    for directory in (programs, home):
        directory.mkdir()
    (programs / "busybox").symlink_to(rootfs.obtain_userland(image.recipe, build_context).path / "root/bin/busybox")
    found = {"HOME": str(home), "PATH": f"{own}:{programs}:{os.environ['PATH']}"}
    if all(shutil.which(name) for name in _KMOD):
        return found
    unpacked = scratch / "kmod"
    for package in ("kmod", "libkmod2"):
        file = build_context.packages.fetch(package, host_debian_architecture(), deadline=Deadline.after(_FETCHING))
        build_context.packages.unpack_deb(file, unpacked)
    for name in _KMOD:
        (programs / name).symlink_to(unpacked / "bin/kmod")
    library = next(unpacked.rglob("libkmod.so.2"), None)
    if library is None:
        raise HostError("vng needs kmod", mend="install the package kmod")
    return {**found, _LIBRARIES: str(library.parent)}
