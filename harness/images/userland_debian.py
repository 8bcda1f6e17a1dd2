"""Busybox and dropbear from Debian's packages, for any architecture of Debian, reduced to what a guest runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.core.process import run
from harness.images import deb, dynamic_linking
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.private_apt import host_debian_architecture
from harness.images.store import Entry
from harness.images.vm_recipe import Recipe

KIND = "userland"

_WANTED = ("busybox-static", "dropbear-bin")
_PROGRAMS = {"busybox": "bin/busybox", "dropbear": "usr/sbin/dropbear"}
_FETCHING = 300.0
_LINKS = 8


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:
    """Return every input of this userland, for its store key: the packages and all their dependencies."""
    architecture = _architecture(recipe)
    closure = build_context.packages.closure_hashes(_WANTED, architecture)
    return [
        architecture,
        *(f"{name} {closure[name]}" for name in sorted(closure)),
        build_context.packages.hash(_WANTED[0], host_debian_architecture()),
        *(code_sha256(Path(name)) for name in (__file__, str(deb.__file__), str(dynamic_linking.__file__))),
    ]


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> Entry:
    """Return an entry whose `root/` holds busybox with links for its applets, dropbear, and dropbear's libraries.

    Raises BuildError when an expected file is missing from the packages.
    """
    job = _Job(_architecture(recipe), build_context.packages)
    return build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)


def _architecture(recipe: Recipe) -> str:
    name = recipe.architecture.debian
    assert name is not None, "rootfs uses this userland only if Debian has the architecture"
    return name


@dataclass(frozen=True)
class _Job:
    """Build of one userland into a store entry."""

    architecture: str
    packages: Packages

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Unpack the packages to a scratch directory; keep the two programs and the libraries that they load."""
        deadline = Deadline.after(_FETCHING)
        root = entry / "root"
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            step.publish_progress("fetching busybox and dropbear", 0.0)
            for package in self.packages.fetch_closure(_WANTED, self.architecture, deadline=deadline):
                deb.unpack(package, Path(scratch) / "unpacked")
            step.publish_progress("copying programs and libraries", 0.5)
            libraries = Pruned(Path(scratch) / "unpacked", root).copy_programs_and_libraries()
            step.publish_progress("listing busybox's applets", 0.8)
            applets = self._applets(Path(scratch) / "native", deadline)
        for applet in applets:
            link = root / applet
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to("/bin/busybox")
        return {"libraries": libraries, "applets": len(applets)}

    def _applets(self, scratch: Path, deadline: Deadline) -> list[str]:
        """Return the paths of busybox's applets, as listed by the host architecture's build of the same package."""
        deb.unpack(self.packages.fetch(_WANTED[0], host_debian_architecture(), deadline=deadline), scratch)
        program = next(path for path in scratch.glob("**/bin/busybox"))
        listed = run([program, "--list-full"], deadline=deadline)
        if listed.rc:
            raise BuildError(f"busybox does not list its applets: {listed.output.strip()}", mend="run again")
        return [name for name in listed.output.split() if name != "linuxrc"]


class Pruned:
    """Two programs and their libraries from unpacked packages, in any directory layout of a release."""

    def __init__(self, unpacked: Path, root: Path) -> None:
        self._root = root
        self._loaders: set[str] = set()
        found = [path for path in unpacked.rglob("*") if "share" not in path.relative_to(unpacked).parts]
        links = [path for path in found if path.is_symlink()]
        # The loader's link and its target have the same name: files come last and take precedence.
        files = [path for path in found if path.is_file() and not path.is_symlink()]
        self._by_name = {path.name: path for path in [*links, *files]}

    def copy_programs_and_libraries(self) -> list[str]:
        """Copy the programs and their libraries; return the names of the libraries."""
        kept: set[str] = set()
        for name, place in _PROGRAMS.items():
            pending = self._copy(name, self._root / place)
            while pending:
                library = pending.pop()
                if library not in kept | self._loaders:
                    kept.add(library)
                    pending |= self._copy(library, self._root / "lib" / library)
        return sorted(kept)

    def _copy(self, name: str, place: Path) -> set[str]:
        """Copy a file and return the libraries that it needs; copy the loader to the path in its PT_INTERP."""
        content = self._content(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(0o755)
        with place.open("rb") as stream:
            elf = ELFFile(stream)
            if interpreter := dynamic_linking.interpreter_path(elf):
                loader = Path(interpreter)
                # The C library needs the loader too; it is already loaded.
                self._loaders.add(loader.name)
                self._copy(loader.name, self._root / loader.relative_to("/"))
            return set(dynamic_linking.needed_libraries(elf))

    def _content(self, name: str) -> bytes:
        """Return the content of the file with this name.

        Links are resolved by name too: an absolute link would point to a file of the host.
        """
        found = self._by_name.get(name)
        for _ in range(_LINKS):
            if found is None:
                break
            if not found.is_symlink():
                return found.read_bytes()
            found = self._by_name.get(found.readlink().name)
        raise BuildError(f"no file {name} in Debian's packages", mend="has the release moved it elsewhere?")
