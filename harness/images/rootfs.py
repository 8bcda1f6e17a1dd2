"""The initial file system of a guest: userland, our init and the kernel's drivers in one uncompressed cpio archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.errors import HostError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256, sha256, sha256_of_matching_files
from harness.core.process import spawn, stop
from harness.images import userland_debian, userland_source
from harness.images.build_context import BuildContext
from harness.images.cross_c_library import files_of_cross_c_library
from harness.images.image_part_protocols import ImagePartBuilder
from harness.images.kernel import KernelBuild
from harness.images.store import Entry, key_of
from harness.images.vm_recipe import Recipe

KIND = "rootfs"
INITRD = "initrd.cpio"

_OVERLAY = paths.RECIPES / "rootfs"
_PACKING = 60.0
# Mount points, and directories that programs expect. dropbear requires that only the owner can access /root.
_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "etc/dropbear", "lib/drivers", "root/.ssh", "var/log")
_PRIVATE = ("root",)


def key_parts(recipe: Recipe, kernel_key: str, build_context: BuildContext) -> list[str]:
    """Return every input of the archive, for its store key; `kernel_key` is the store key of the kernel."""
    return [
        kernel_key,
        key_of(_userland(recipe).key_parts(recipe, _context_of_userland(recipe, build_context))),
        sha256_of_matching_files(_OVERLAY),
        code_sha256(Path(__file__)),
        *(f"{name} {sha256(path)}" for name, path in files_of_cross_c_library(recipe).items()),
    ]


def obtain(recipe: Recipe, kernel: KernelBuild, build_context: BuildContext, parts: Sequence[str]) -> Entry:
    """Return an entry with `initrd.cpio`. Raises HostError when cpio fails, and the errors of obtain_userland."""
    job = _Job(recipe, build_context, kernel.drivers)
    return build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)


def obtain_userland(recipe: Recipe, build_context: BuildContext) -> Entry:
    """Return the part that needs no kernel, an entry with `root/`.

    It comes from Debian's packages, or from a source build if Debian has none that can be used.
    """
    userland, context = _userland(recipe), _context_of_userland(recipe, build_context)
    return userland.obtain(recipe, context, userland.key_parts(recipe, context))


def _context_of_userland(recipe: Recipe, build_context: BuildContext) -> BuildContext:
    """Return the context with the packages of the release that has the userland."""
    return build_context.with_suite(recipe.architecture.userland_suite)


def _userland(recipe: Recipe) -> ImagePartBuilder[Entry]:
    return userland_source if recipe.architecture.has_static_userland else userland_debian


@dataclass(frozen=True)
class _Job:
    """Build of one archive into a store entry."""

    recipe: Recipe
    build_context: BuildContext
    drivers: tuple[Path, ...]

    def build(self, entry: Path, _step: ProgressStep) -> Mapping[str, Any]:
        """Copy all files to a scratch directory, then pack the directory."""
        userland = obtain_userland(self.recipe, self.build_context)
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            root = Path(scratch) / "root"
            shutil.copytree(userland.path / "root", root, symlinks=True)
            for name in _DIRECTORIES:
                (root / name).mkdir(parents=True, exist_ok=True)
            for name, file in files_of_cross_c_library(self.recipe).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, root / name)
            for driver in self.drivers:
                shutil.copy(driver, root / "lib/drivers")
            shutil.copytree(_OVERLAY, root, symlinks=True, dirs_exist_ok=True)
            pack(root, entry / INITRD)
        return {"bytes": (entry / INITRD).stat().st_size, "drivers": len(self.drivers)}


def pack(root: Path, archive: Path) -> None:
    """Write the tree as a newc cpio archive with the same bytes for any user, time and umask.

    Root owns every file, and every time stamp is 0. Directories have mode 0755, except /root; files 0755 or 0644.
    Raises HostError when cpio fails, OSError when the disk is full.
    """
    names = [".", *sorted(str(path.relative_to(root)) for path in root.rglob("*"))]
    for name in names:
        _normalize(root / name, private=name in _PRIVATE)
    words = ["cpio", "--create", "--null", "--format=newc", "--owner=+0:+0", "--reproducible", "--quiet"]
    with tempfile.TemporaryFile() as listed, tempfile.TemporaryFile() as complaints, archive.open("wb") as packed:
        listed.write("".join(f"{name}\0" for name in names).encode())
        listed.seek(0)
        child = spawn(words, cwd=root, stdin=listed, stdout=subprocess.PIPE, stderr=complaints, env={"LC_ALL": "C"})
        watchdog = threading.Timer(_PACKING, stop, [child])
        watchdog.start()
        try:
            # The harness writes the file: on a full disk, cpio itself would prompt on the terminal for another medium.
            assert child.stdout is not None
            shutil.copyfileobj(child.stdout, packed)
            rc = child.wait(_PACKING)
        finally:
            watchdog.cancel()
            stop(child)
        complaints.seek(0)
        messages = " ".join(complaints.read().decode(errors="replace").split())
    if rc:
        raise HostError(f"cpio failed: {messages or rc}", where=str(archive), mend="run again")


def _normalize(path: Path, *, private: bool) -> None:
    """Set a fixed mode and time, independent of umask and clock."""
    if not path.is_symlink():
        executable = path.is_dir() or path.stat().st_mode & 0o111
        path.chmod(0o700 if private else 0o755 if executable else 0o644)
    os.utime(path, (0, 0), follow_symlinks=False)
