"""A kernel from Debian's packages: boot file, symbols, drivers for a guest, headers for module builds."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import BuildError, RecipeError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images import (
    arm64_image,
    arm_zimage,
    deb,
    debian_suite_host_programs,
    drivers,
    embedded_kernel,
    kallsyms,
    kernel_config,
    mips_vmlinuz,
    s390_bzimage,
    vmlinux,
    write_recovered_symbols_elf,
)
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.kernel import KernelBuild, ModuleBuildTrees
from harness.images.private_apt import host_debian_architecture
from harness.images.vm_recipe import Recipe

KIND = "kernel"
_IMAGE = "linux-image-"
# Newer Debian kernels divide an image into these packages of the same release; 6.18 has the first, 7.3 all of them.
_DIVIDED = ("linux-base-", "linux-binary-", "linux-modules-")
# The headers that all flavors of a release share; the flavors with PREEMPT_RT have their own up to 6.1.
_COMMON = ("-common", "-common-rt")
_FETCHING = 900.0
_MODULES = (
    *(deb, drivers, write_recovered_symbols_elf, kallsyms, debian_suite_host_programs),
    *(vmlinux, arm64_image, arm_zimage, embedded_kernel, mips_vmlinuz, s390_bzimage),
)
_SCRIPTS = (Path(__file__), *(Path(str(module.__file__)) for module in _MODULES))


@dataclass(frozen=True)
class _Package:
    """One binary package and the architecture of the file to fetch."""

    name: str
    architecture: str


@dataclass(frozen=True)
class _Debian:
    """One packaged kernel: the packages to fetch, and the build of its store entry."""

    recipe: Recipe
    packages: Packages
    image: _Package
    divided: tuple[_Package, ...]
    headers: tuple[_Package, ...]

    @property
    def release(self) -> str:
        """The kernel's release (`uname -r`), which Debian puts into the package name."""
        return self.image.name.removeprefix(_IMAGE)

    def key_parts(self) -> list[str]:
        """Return every input of the entry, for its store key."""
        chosen = (self.image, *self.divided, *self.headers)
        return [
            *(f"{package.name} {self.packages.hash(package.name, package.architecture)}" for package in chosen),
            f"vmlinux-to-elf {library_version('vmlinux-to-elf')}",
            f"drivers {' '.join(self.recipe.architecture.qemu_machine.nic_modules)}",
            *(code_sha256(script) for script in _SCRIPTS),
        ]

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Fetch and unpack the packages, keep the needed files, and remove the rest.

        Decompressing, recovering symbols and unpacking thousands of headers each keep one core busy for seconds, so
        they run in parallel.
        """
        deadline = Deadline.after(_FETCHING)
        step.publish_progress(f"fetching {self.image.name}", 0.0)
        files = [
            self.packages.fetch(package.name, package.architecture, deadline=deadline)
            for package in (self.image, *self.divided)
        ]
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix=f"{self.recipe.name}-kernel") as aside:
            step.publish_progress(f"unpacking {self.image.name}", 0.1)
            headers = aside.submit(self._lay_out_headers, entry / "tree", deadline)
            kept = aside.submit(self._keep_drivers, files, entry)
            (entry / "kernel").write_bytes(deb.read_first_file_named(files, self._places("vmlinuz", "vmlinux")))
            (entry / "config").write_bytes(deb.read_first_file_named(files, self._places("config")))
            config = kernel_config.parse_set_options((entry / "config").read_text())
            (entry / "config.json").write_text(json.dumps(config))
            step.publish_progress("recovering the kernel's symbols", 0.3)
            symbols = vmlinux.write_vmlinux(entry / "kernel", entry / "vmlinux", self.recipe.architecture)
            step.publish_progress("waiting for drivers and headers", 0.7)
            headers.result()
            facts = {"drivers": kept.result(), "symbols": symbols}
        step.set_final_detail(f"{self.release}, {symbols} symbols")
        return {
            **facts,
            "release": self.release,
            "version": self.packages.version(self.image.name, self.image.architecture),
            "build_id": Elf.read(entry / "vmlinux").build_id,
        }

    def _places(self, *names: str) -> tuple[str, ...]:
        """Return the possible paths of a kernel file: below /boot, or in the modules' directory in divided packages."""
        where = ((f"boot/{name}-{self.release}", f"usr/lib/modules/{self.release}/{name}") for name in names)
        return tuple(place for places in where for place in places)

    def _keep_drivers(self, files: Sequence[Path], entry: Path) -> list[str]:
        """Unpack all modules, because only they record dependencies; keep the needed ones and return their names."""
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            for file in files:
                deb.unpack(file, Path(scratch))
            places = [Path(scratch) / root / "modules" / self.release for root in ("usr/lib", "lib")]
            modules = next((place for place in places if place.is_dir()), places[0])
            return drivers.copy_modules(modules, self.recipe.architecture.qemu_machine.nic_modules, entry / "drivers")

    def _lay_out_headers(self, tree: Path, deadline: Deadline) -> None:
        for package in self.headers:
            deb.unpack(self.packages.fetch(package.name, package.architecture, deadline=deadline), tree)
        prepare_headers_for_builds(tree, self.release)
        if self.recipe.kernel.compiler:
            for kbuild in (tree / "usr/lib").glob("linux-kbuild-*"):
                debian_suite_host_programs.replace_programs_by_launchers(
                    kbuild, kbuild.name, self.recipe.kernel.suite, self.packages, deadline
                )


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:
    """Return every input of this kernel, for its store key; no package is fetched."""
    return _chosen(recipe, build_context.packages).key_parts()


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> KernelBuild:
    """Return the packaged kernel that the recipe names, from the store or built now.

    Raises RecipeError when there is no such package, HostError when it cannot be fetched, BuildError when its kernel
    cannot be read.
    """
    chosen = _chosen(recipe, build_context.packages)
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=chosen.build)
    source, objects = _header_directories(entry.path / "tree", chosen.release)
    return KernelBuild(
        key=entry.key,
        release=entry.facts["release"],
        build_id=entry.facts["build_id"],
        kernel=entry.path / "kernel",
        bootable_elf=entry.path / "vmlinux",
        vmlinux=entry.path / "vmlinux",
        headers=ModuleBuildTrees(source=source, objects=objects),
        drivers=tuple(entry.path / "drivers" / name for name in entry.facts["drivers"]),
        config=json.loads((entry.path / "config.json").read_text()),
        facts={"symbols": entry.facts["symbols"]},
    )


def image_package(recipe: Recipe, packages: Packages) -> tuple[str, str]:
    """Return the real package with the kernel's image, and its architecture. Raises what `obtain` raises."""
    image = _chosen(recipe, packages).image
    return image.name, image.architecture


def _chosen(recipe: Recipe, packages: Packages) -> _Debian:
    """Return the packages for the name in the recipe; `linux-image-amd64` is empty and depends on the real package."""
    wanted = recipe.kernel.package
    if not wanted.startswith(_IMAGE) or recipe.architecture.debian is None:
        raise RecipeError(
            f"kernel.package is {wanted!r}", where=f"{recipe.name}.toml", mend=f"name a {_IMAGE}* package Debian has"
        )
    architecture = recipe.architecture.debian
    real = [name for name in packages.depends(wanted, architecture) if name.startswith(_IMAGE)]
    image = real[0] if real else wanted
    release = image.removeprefix(_IMAGE)
    possible = {f"{part}{release}" for part in _DIVIDED}
    divided = [name for name in packages.depends(image, architecture) if name in possible]
    own = f"linux-headers-{release}"
    needed = packages.depends(own, architecture)
    headers = [_Package(own, architecture)]
    headers += [_Package(name, "all") for name in needed if name.endswith(_COMMON)]
    # Kbuild's programs run on the host for every target, so their package is the one of the host's architecture. The
    # headers also depend on a compiler, which is left out: the target's own compiler could not run on the host.
    headers += [_Package(name, host_debian_architecture()) for name in needed if name.startswith("linux-kbuild-")]
    parts = tuple(_Package(name, architecture) for name in divided)
    return _Debian(recipe, packages, _Package(image, architecture), parts, tuple(headers))


def _header_directories(tree: Path, release: str) -> tuple[Path, Path]:
    """Return the directories of the common headers and of this kernel's own headers."""
    source = next(iter((tree / "usr/src").glob("linux-headers-*-common*")), None)
    objects = tree / "usr/src" / f"linux-headers-{release}"
    if source is None or not objects.is_dir():
        raise BuildError("the header packages have an unknown layout", where=release, mend="see kernel.package")
    return source, objects


def prepare_headers_for_builds(tree: Path, release: str) -> None:
    """Make the unpacked header packages usable in place, and remove files that no module build reads.

    The packages refer to each other by relative links, except one line that includes a Makefile from /usr/src.
    """
    source, objects = _header_directories(tree, release)
    (objects / "Makefile").write_text(f"include $(dir $(lastword $(MAKEFILE_LIST)))../{source.name}/Makefile\n")
    _remove_siblings(source / "arch", {path.name for path in (objects / "arch").iterdir()})
    # One empty file for each option. Kbuild's rules compare its time through $(wildcard).
    for mark in (objects / "include/config").rglob("*"):
        if mark.is_file() and mark.stat().st_size == 0:
            mark.unlink()
    # With the kernel's BTF kbuild would run pahole on modules; ours have none (harness/pinning/holds/btf_encoder.py).
    (objects / "vmlinux").unlink(missing_ok=True)
    for part in ("lib", "usr/share"):
        shutil.rmtree(tree / part, ignore_errors=True)


def _remove_siblings(directory: Path, kept: set[str]) -> None:
    for path in directory.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path)
