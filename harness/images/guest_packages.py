"""Debian packages and their dependencies for a guest, below one directory of its initial file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import HostError, RecipeError, UsageError
from harness.core.events import ProgressStep
from harness.core.files import sha256
from harness.images import deb, rootfs
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.packages import Packages

KIND = "tools"
# The directory of the packages in the guest: the root of a chroot.
ROOT = "/tools"
_ARCHIVE = "tools.cpio"
_FETCHING = 900.0
# Directories that no command reads. Debian's container images leave out the same ones.
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "var/cache")
# A guest needs memory for the archive, for the unpacked files, and to run.
_COPIES, _ROOM_MIB = 2, 512
# Packages that every release has: a shell, and the awk and grep that scripts expect.
_ALWAYS = ("dash", "coreutils", "grep", "sed", "mawk")


def with_guest_packages(image: Image, packages: Sequence[str], build_context: BuildContext, directory: Path) -> Image:
    """Return the image with the packages below ROOT in its initial file system, and with enough memory for them.

    The joined archive is written to `directory`. Raises UsageError for an architecture or a package that Debian does
    not have, HostError when a package cannot be fetched.
    """
    recipe = image.recipe
    architecture = recipe.architecture.debian
    if architecture is None:
        mend = "run it without --with-package"
        raise UsageError(f"Debian has no packages for {recipe.arch}", where=recipe.name, mend=mend)
    wanted = (*_ALWAYS, *packages)
    source = build_context.for_suite(recipe.kernel.suite).packages
    try:
        closure = source.closure(wanted, architecture)
    except RecipeError as error:
        raise UsageError(error.what, where="--with-package", mend="name packages of that release") from None
    job = _Job(wanted, architecture, source)
    parts = [architecture, *(f"{name} {closure[name]}" for name in sorted(closure)), sha256(Path(__file__))]
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    joined = directory / "initrd.cpio"
    with joined.open("wb") as stream:
        for part in (image.initrd, entry.path / _ARCHIVE):
            with part.open("rb") as content:
                shutil.copyfileobj(content, stream, 1 << 20)
    needed = _ROOM_MIB + _COPIES * (joined.stat().st_size >> 20)
    machine = recipe.machine.model_copy(update={"memory_mib": max(recipe.machine.memory_mib, needed)})
    return replace(image, initrd=joined, recipe=recipe.model_copy(update={"machine": machine}))


@dataclass(frozen=True)
class _Job:
    """Build of one set of packages into a store entry."""

    wanted: Sequence[str]
    architecture: str
    packages: Packages

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Unpack the packages into one tree, remove documentation, and pack the tree; no maintainer script runs."""
        step.report(f"fetching {', '.join(self.wanted)}", 0.0)
        files = self.packages.fetch_closure(self.wanted, self.architecture, deadline=Deadline.after(_FETCHING))
        tree = entry / "tree"
        root = tree / ROOT.strip("/")
        for index, file in enumerate(files):
            step.report(f"unpacking {file.name.partition('_')[0]}", index / len(files))
            deb.unpack(file, root)
        for name in _LEFT_OUT:
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("proc", "sys", "dev", "tmp", "run", "root", "etc"):
            (root / name).mkdir(exist_ok=True)
        _merge_usr(root)
        _settle_alternatives(root)
        step.report("packing", 0.9)
        try:
            rootfs.pack(tree, entry / _ARCHIVE)
        finally:
            shutil.rmtree(tree)
        size = (entry / _ARCHIVE).stat().st_size
        step.close_with(f"{len(files)} packages, {size >> 20} MiB")
        return {"packages": len(files), "bytes": size}


def _merge_usr(root: Path) -> None:
    """Make /bin, /sbin and /lib* links into /usr: packages have files in both, and no package has the links."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        old, real = root / name, root / "usr" / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, real, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        if real.is_dir() and not os.path.lexists(old):
            old.symlink_to(f"usr/{name}")


def _settle_alternatives(root: Path) -> None:
    """Make the links that maintainer scripts would make. The dynamic loader works without its cache."""
    for name, target in (("bin/sh", "dash"), ("usr/bin/awk", "mawk")):
        link = root / name
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
    if not (root / "usr/bin/dash").exists():
        raise HostError("the packages have no shell", where=KIND, mend="run again")
