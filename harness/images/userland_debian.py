"""Busybox and dropbear out of Debian's packages, for any architecture Debian has, cut down to what a guest runs."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.events import Step
from harness.core.files import sha256
from harness.core.process import run
from harness.images import mirrors
from harness.images.apt_state import native
from harness.images.packages import Packages
from harness.images.recipe import Recipe
from harness.images.store import Entry
from harness.images.workshop import Workshop

KIND = "userland"

_WANTED = ("busybox-static", "dropbear-bin")
_PROGRAMS = {"busybox": "bin/busybox", "dropbear": "usr/sbin/dropbear"}
_BOOTSTRAP = 600.0
_FETCHING = 300.0


def parts(recipe: Recipe, workshop: Workshop) -> list[str]:
    """Everything that goes into this userland, for its store key: the packages, what they depend on, and this file."""
    architecture = _architecture(recipe)
    names = _closure(_WANTED, architecture, workshop.packages)
    return [
        architecture,
        *(f"{name} {workshop.packages.hash(name, architecture)}" for name in names),
        workshop.packages.hash(_WANTED[0], native()),
        sha256(Path(__file__)),
    ]


def obtain(recipe: Recipe, workshop: Workshop) -> Entry:
    """An entry whose `root/` holds busybox with its applets' links, dropbear, and the libraries it is linked with.

    Raises BuildError with the log when mmdebstrap fails.
    """
    job = _Job(_architecture(recipe), workshop.packages)
    return workshop.store.obtain(KIND, parts(recipe, workshop), vm=recipe.name, build=job.build)


def _architecture(recipe: Recipe) -> str:
    name = recipe.architecture.debian
    assert name is not None, "the rootfs room asks for this userland only where Debian has the architecture"
    return name


def _closure(wanted: Iterable[str], architecture: str, packages: Packages) -> list[str]:
    """The packages and all that they depend on, sorted."""
    found: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += packages.depends(name, architecture)
    return sorted(found)


@dataclass(frozen=True)
class _Job:
    """One userland to be put together in a store entry."""

    architecture: str
    packages: Packages

    def build(self, entry: Path, step: Step) -> Mapping[str, Any]:
        """Let mmdebstrap resolve, check and extract the packages; keep the two programs and what they load."""
        root = entry / "root"
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            step.say("mmdebstrap: busybox and dropbear", 0.0)
            archive = Path(scratch) / "root.tar"
            self._bootstrap(archive, Path(scratch))
            step.say("keeping what a guest runs", 0.8)
            with tarfile.open(archive) as opened:
                libraries = Pruned(opened, root).keep()
            step.say("naming busybox's applets", 0.9)
            applets = self._applets(Path(scratch) / "native")
        for applet in applets:
            link = root / applet
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to("/bin/busybox")
        return {"libraries": libraries, "applets": len(applets)}

    def _bootstrap(self, archive: Path, scratch: Path) -> None:
        """One archive with the packages' files.

        chrootless, and that check skipped, because nothing is run in the target, so that root and an ordinary user
        without subordinate ids take the same way: mmdebstrap(1) refuses it to root for fear of maintainer scripts,
        which the extract variant does not run.
        """
        sources, settings = scratch / "sources.list", scratch / "apt.conf"
        sources.write_text(self.packages.sources_list)
        settings.write_text("\n".join([*mirrors.host_settings(), ""]))
        log = paths.cache() / "logs" / f"userland-{self.architecture}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        words = [
            *("mmdebstrap", "--variant=extract", "--mode=chrootless", "--skip=check/chrootless", "--format=tar"),
            *(f"--architectures={self.architecture}", f"--include={','.join(_WANTED)}", f"--aptopt={settings}"),
            *("", str(archive), str(sources)),
        ]
        if run(words, deadline=Deadline.after(_BOOTSTRAP), log=log, env={"TMPDIR": str(scratch)}).rc:
            raise BuildError("mmdebstrap failed", where=str(log), mend="see the log", log=log)

    def _applets(self, scratch: Path) -> list[str]:
        """Where busybox's applets belong, as the host's own build of the same package says."""
        deb = self.packages.fetch(_WANTED[0], native(), deadline=Deadline.after(_FETCHING))
        self.packages.unpack(deb, scratch)
        program = next(path for path in scratch.glob("**/bin/busybox"))
        asked = run([program, "--list-full"], deadline=Deadline.after(_FETCHING))
        shutil.rmtree(scratch)
        if asked.rc:
            raise BuildError(f"busybox does not list its applets: {asked.output.strip()}", mend="run again")
        return [name for name in asked.output.split() if name != "linuxrc"]


class Pruned:
    """Two programs and the libraries they need, out of an archive, whatever directories a release puts them in."""

    def __init__(self, archive: tarfile.TarFile, root: Path) -> None:
        self._archive = archive
        self._root = root
        self._loaders: set[str] = set()
        found = [member for member in archive.getmembers() if "/share/" not in member.name]
        # The loader's link and the file it leads to have one name: files last, they win.
        ordered = [*filter(tarfile.TarInfo.issym, found), *filter(tarfile.TarInfo.isfile, found)]
        self._by_name = {Path(member.name).name: member for member in ordered}

    def keep(self) -> list[str]:
        """Copy them; gives the names of the libraries."""
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
        """Copy a file; gives the libraries it needs. The loader goes where the program says it is."""
        content = self._content(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(0o755)
        with place.open("rb") as stream:
            elf = ELFFile(stream)
            for segment in elf.iter_segments():
                if isinstance(segment, InterpSegment):
                    loader = Path(segment.get_interp_name())
                    # The C library needs it too, and finds it loaded.
                    self._loaders.add(loader.name)
                    self._copy(loader.name, self._root / loader.relative_to("/"))
            dynamic = elf.get_section_by_name(".dynamic")
            if not isinstance(dynamic, DynamicSection):
                return set()
            return {str(tag.needed) for tag in dynamic.iter_tags("DT_NEEDED")}  # type: ignore[attr-defined]

    def _content(self, name: str) -> bytes:
        """A file's bytes by its name, symbolic links followed by name too."""
        member = self._by_name.get(name)
        for _ in range(8):
            if member is None:
                break
            if member.isfile():
                stream = self._archive.extractfile(member)
                assert stream is not None
                return stream.read()
            member = self._by_name.get(Path(member.linkname).name)
        raise BuildError(f"no file {name} in Debian's packages", mend="has the release moved it elsewhere?")
