"""Debian packages for a guest: small ones as an archive to unpack in it, large ones as a disk that it mounts."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import HostError, RecipeError, UsageError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.core.process import run
from harness.images import (
    deb,
    debian_suite_host_programs,
    dynamic_linking,
    host_apt_sources,
    packaged_kernel_module_by_name,
    prune_unpacked_debian_packages,
)
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.image import Image
from harness.images.vm_recipe import Recipe

KIND = "tools"
# The directory of the packages in the guest: the root of a chroot.
ROOT = "/tools"
# The label of the disk's modules in an image, before the name of each.
DRIVER_PREFIX = "disk/"
_ARCHIVE, _DISK = "tools.tar.gz", "tools.squashfs"
_FETCHING, _PACKING = 900.0, 300.0
# An archive of more bytes takes longer to ship and to unpack than a guest takes to mount a disk, and fills its memory.
_LARGEST_ARCHIVE = 32 << 20
# Memory of a guest whose tools are large: bpftrace alone needs some 200 MiB.
_LARGE_MIB = 1024
_DIRECTORIES = ("proc", "sys", "dev", "tmp", "run", "root", "etc", "bin")


@dataclass(frozen=True)
class PackedTools:
    """Some packages, and what they need: an `archive` or a `disk`, the other one is None; `key` is the store's."""

    key: str
    archive: Path | None = None
    disk: Path | None = None


def obtain_packed_tools(
    recipe: Recipe, packages: Sequence[str], build_context: BuildContext, suite: str = ""
) -> PackedTools:
    """Return the packages for guests of a recipe, from the store or built now; of the VM's release or of `suite`.

    Raises UsageError for an architecture or a package that Debian does not have, HostError when one cannot be had.
    """
    architecture = recipe.architecture.debian
    if architecture is None:
        mend = "run it without --with-package"
        raise UsageError(f"Debian has no packages for {recipe.arch}", where=recipe.name, mend=mend)
    source = packages_of_suite_and_release(suite or recipe.kernel.suite, build_context.packages)
    wanted = tuple(sorted(set(packages)))
    try:
        closure = source.closure_hashes(wanted, architecture)
    except RecipeError as error:
        raise UsageError(error.what, where="--with-package", mend="give names of that release's packages") from None
    job = _Job(wanted, architecture, source, build_context)
    files = (__file__, str(deb.__file__), str(dynamic_linking.__file__), str(prune_unpacked_debian_packages.__file__))
    code = [code_sha256(Path(name)) for name in files]
    parts = [architecture, *wanted, *(f"{name} {closure[name]}" for name in sorted(closure)), *code]
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    archive, disk = entry.path / _ARCHIVE, entry.path / _DISK
    return PackedTools(entry.path.name, archive, None) if archive.exists() else PackedTools(entry.path.name, None, disk)


def packages_that_debian_lacks(
    recipe: Recipe, packages: Sequence[str], build_context: BuildContext, suite: str = ""
) -> list[str]:
    """Return those of the packages that Debian does not have for the recipe's architecture.

    Raises HostError when no list of packages can be fetched.
    """
    architecture = recipe.architecture.debian
    source = packages_of_suite_and_release(suite or recipe.kernel.suite, build_context.packages)
    return [name for name in packages if architecture is None or not _has(source, name, architecture)]


def _has(source: Packages, package: str, architecture: str) -> bool:
    try:
        source.version(package, architecture)
    except RecipeError:
        return False
    return True


def packages_of_suite_and_release(suite: str, packages: Packages) -> Packages:
    """The packages of a suite, and of the release that it extends: backports have few packages of their own."""
    return packages.with_suite_and_base_release(suite) if "-" in suite else packages.with_suite(suite)


def image_with_tool_disk(image: Image, tools: PackedTools, build_context: BuildContext) -> Image:
    """Return the image with the tools' disk, the modules to mount it by, and memory to run large tools in.

    Raises UsageError for a kernel that cannot mount it.
    """
    machine = image.recipe.architecture.qemu_machine
    try:
        files = [
            file
            for name in machine.disk_modules
            for file in packaged_kernel_module_by_name.obtain_module_with_dependencies(name, image, build_context)
        ]
    except UsageError:
        names = ", ".join(machine.disk_modules) or "disk"
        what = f"these packages are too large to unpack in a guest, and its kernel cannot mount them: no {names}"
        raise UsageError(what, where=image.recipe.name, mend="take a VM with Debian's kernel") from None
    drivers = {f"{DRIVER_PREFIX}{file.stem.partition('-')[2]}": file for file in files}
    options = image.recipe.machine.model_copy(update={"memory_mib": max(image.recipe.machine.memory_mib, _LARGE_MIB)})
    return replace(
        image,
        key=f"{image.key} {tools.key}",
        disk=tools.disk,
        modules={**image.modules, **drivers},
        recipe=image.recipe.model_copy(update={"machine": options}),
    )


def disk_driver_files_by_name(image: Image) -> dict[str, Path]:
    """Return the modules by which an image's guests mount their disk, by the names that the kernel has for them."""
    return {
        name.removeprefix(DRIVER_PREFIX): file for name, file in image.modules.items() if name.startswith(DRIVER_PREFIX)
    }


@dataclass(frozen=True)
class _Job:
    """Build of one set of packages into a store entry."""

    wanted: Sequence[str]
    architecture: str
    packages: Packages
    build_context: BuildContext

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Unpack the packages, keep what they need, pack it. No maintainer script is run."""
        step.publish_progress(f"fetching {', '.join(self.wanted)}", 0.0)
        files = self.packages.fetch_closure(self.wanted, self.architecture, deadline=Deadline.after(_FETCHING))
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            root, rest = Path(scratch) / "own", Path(scratch) / "rest"
            rest.mkdir()
            for index, file in enumerate(files):
                step.publish_progress(f"unpacking {file.name.partition('_')[0]}", index / len(files))
                deb.unpack(file, root if file.name.partition("_")[0] in self.wanted else rest)
            whole = prune_unpacked_debian_packages.scripts_lacking_interpreter(
                root
            ) or not prune_unpacked_debian_packages.has_programs(root)
            if whole:
                shutil.copytree(rest, root, symlinks=True, dirs_exist_ok=True)
            else:
                prune_unpacked_debian_packages.copy_needed_libraries(root, rest)
            prune_unpacked_debian_packages.delete_documentation(root)
            for name in _DIRECTORIES:
                (root / name).mkdir(exist_ok=True)
            prune_unpacked_debian_packages.merge_usr(root)
            step.publish_progress("packing", 0.9)
            packed = self._packed(root, entry)
        size = packed.stat().st_size
        step.set_final_detail(f"{len(files)} packages, {size >> 20} MiB")
        return {"packages": len(files), "bytes": size, "whole": bool(whole)}

    def _packed(self, root: Path, entry: Path) -> Path:
        """The tree as an archive or, where that is too large, as a disk."""
        archive = entry / _ARCHIVE
        with (
            archive.open("wb") as stream,
            gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as tree,
        ):
            for path in sorted(root.rglob("*")):
                tree.add(path, str(path.relative_to(root)), recursive=False, filter=_of_root)
        if archive.stat().st_size <= _LARGEST_ARCHIVE:
            return archive
        archive.unlink()
        disk = entry / _DISK
        programs = debian_suite_host_programs.obtain_launchers(_squasher(), self.build_context, vm=KIND)
        words = ["-comp", "lz4", "-all-root", "-all-time", "0", "-mkfs-time", "0", "-no-progress", "-quiet"]
        squash = programs.path / debian_suite_host_programs.LAUNCHERS / "mksquashfs"
        made = run([squash, root, disk, *words], deadline=Deadline.after(_PACKING))
        if made.rc:
            raise HostError(f"mksquashfs failed: {' '.join(made.output.split())[-200:]}", where=KIND, mend="run again")
        return disk


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same member for any user and time."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    return member


def _squasher() -> WantedSuitePrograms:
    return WantedSuitePrograms(
        suite=host_apt_sources.default_suites()[0],
        packages=("squashfs-tools",),
        kept_paths=("usr/bin/mksquashfs",),
        launcher_commands={"mksquashfs": ("usr/bin/mksquashfs",)},
    )
