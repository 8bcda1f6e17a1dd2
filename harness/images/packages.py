"""Debian packages by name through a private apt: the host's sources are only read, and nobody need be root."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError, RecipeError
from harness.core.events import Bus
from harness.core.files import digest, sha256
from harness.core.process import run, spawn, stop
from harness.images import mirrors
from harness.images.apt_state import SOURCE, AptState, complaint, first_paragraph, native

_ASKING = 60.0
_UNPACKING = 300.0
# What apt-get source --print-uris says of each file: 'URI' NAME SIZE SHA256:HEX.
_SOURCE_FILE = re.compile(r"^'\S+' (\S+) \d+ SHA256:([0-9a-f]{64})$", re.M)


@dataclass(frozen=True)
class SourcePackage:
    """A Debian source package, downloaded and checked: `dsc` and all `files` it names (itself among them).

    `sha256` is one digest over the files' own hashes, which apt took from the signed list.
    """

    name: str
    version: str
    dsc: Path
    files: tuple[Path, ...]
    sha256: str


class Packages:
    """The packages of some Debian suites, for any architecture, kept below `root`.

    Package lists are fetched when absent or older than a day, per architecture and only when asked for; signatures are
    checked by apt against Debian's archive keys. Files are kept and checked by hash before each use.
    """

    def __init__(self, root: Path, bus: Bus, suites: Sequence[str] = ()) -> None:
        self._suites = tuple(suites) or mirrors.default_suites()
        self._root = root / self._suites[0]
        self._bus = bus
        self._states: dict[str, AptState] = {}

    @property
    def sources_list(self) -> str:
        """The suites as `deb` lines, for mmdebstrap."""
        return "".join(f"{repository.line('deb')}\n" for repository in mirrors.repositories(self._suites))

    def version(self, package: str, architecture: str) -> str:
        """The candidate version of a binary package. `architecture` is dpkg's name, or `all`.

        Raises RecipeError when there is no such package, HostError when no list can be had.
        """
        return self._described(package, architecture)["Version"]

    def hash(self, package: str, architecture: str) -> str:
        """The SHA-256 of the package's file as the signed list has it. Raises as `version`."""
        return self._described(package, architecture)["SHA256"]

    def depends(self, package: str, architecture: str) -> list[str]:
        """The names a package depends on; of alternatives the first. Raises as `version`."""
        wanted = self._described(package, architecture).get("Depends", "")
        return [re.split(r"[\s(|:]", clause.strip(), maxsplit=1)[0] for clause in wanted.split(",") if clause.strip()]

    def fetch(self, package: str, architecture: str, *, deadline: Deadline) -> Path:
        """The package's file, its hash as the signed list has it. Raises as `version`."""
        described = self._described(package, architecture)
        kept = self._archives / Path(described["Filename"]).name
        with self._state(architecture).held(deadline):
            if not (kept.exists() and sha256(kept) == described["SHA256"]):
                wanted = f"{package}={described['Version']}"
                with self._downloaded(architecture, ["download", wanted], deadline) as found:
                    found[0].replace(kept)
        if sha256(kept) != described["SHA256"]:
            raise HostError("the downloaded package is not the one listed", where=str(kept), mend="run again")
        return kept

    def fetch_source(self, package: str, *, deadline: Deadline) -> SourcePackage:
        """The candidate of a source package. Raises RecipeError when there is none, HostError when it cannot be had."""
        state = self._state(SOURCE)

        def listed() -> dict[str, str]:
            told = state.ask(["apt-get", "source", "--print-uris", "--only-source", package], deadline)
            return {} if told.rc else dict(_SOURCE_FILE.findall(told.output))

        hashes = state.recall(f"source {package}", listed, deadline)
        if not hashes:
            raise RecipeError(f"no source package {package!r} in {self._suites[0]}", mend="mend kernel.package")
        paths = [self._archives / name for name in hashes]
        with state.held(deadline):
            if not all(path.exists() and sha256(path) == hashes[path.name] for path in paths):
                words = ["source", "--download-only", "--only-source", package]
                with self._downloaded(SOURCE, words, deadline) as found:
                    for path in found:
                        path.replace(self._archives / path.name)
        dsc = next(path for path in paths if path.suffix == ".dsc")
        stated = re.search(r"^Version: (\S+)$", dsc.read_text(), re.M)
        version = stated[1] if stated else dsc.stem.partition("_")[2]
        return SourcePackage(package, version, dsc, tuple(paths), digest(f"{name}={hashes[name]}" for name in hashes))

    def unpack(self, deb: Path, into: Path) -> None:
        """Lay the package's files below `into`. Raises HostError when it cannot."""
        into.mkdir(parents=True, exist_ok=True)
        done = run(["dpkg-deb", "--extract", deb, into], deadline=Deadline.after(_UNPACKING))
        if done.rc:
            raise HostError(f"cannot unpack: {done.output.strip()}", where=deb.name, mend="make room, or run again")

    def member(self, deb: Path, name: str) -> bytes:
        """One file of a package, by its path without a leading slash; no more is unpacked than stands before it.

        Raises HostError when the package has no such file.
        """
        child = spawn(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        watchdog = threading.Timer(_UNPACKING, stop, [child])
        watchdog.start()
        try:
            with tarfile.open(fileobj=child.stdout, mode="r|") as archive:
                for member in archive:
                    if member.name.removeprefix("./") == name and (content := archive.extractfile(member)):
                        return content.read()
        except tarfile.TarError as error:
            raise HostError(f"cannot unpack: {error}", where=deb.name, mend="run again") from None
        finally:
            watchdog.cancel()
            stop(child)
        raise HostError(f"there is no {name} in it", where=deb.name, mend="has Debian moved it elsewhere?")

    @property
    def _archives(self) -> Path:
        return self._root / "archives"

    def _described(self, package: str, architecture: str) -> Mapping[str, str]:
        """The candidate's paragraph of the package list."""
        state = self._state(architecture)
        deadline = Deadline.after(_ASKING)

        def shown() -> dict[str, str]:
            told = state.ask(["apt-cache", "show", "--no-all-versions", package], deadline)
            return {} if told.rc else first_paragraph(told.output)

        found = state.recall(f"package {package}", shown, deadline)
        if not found:
            raise RecipeError(
                f"no package {package!r} for {architecture} in {self._suites[0]}", mend="mend kernel.package"
            )
        return found

    def _state(self, architecture: str) -> AptState:
        """The apt state for an architecture, or for sources; packages for `all` are in every architecture's lists."""
        name = native() if architecture == "all" else architecture
        if name not in self._states:
            self._states[name] = AptState(self._root / name, name, self._suites, self._bus)
        return self._states[name]

    @contextmanager
    def _downloaded(self, architecture: str, words: Sequence[str], deadline: Deadline) -> Iterator[list[Path]]:
        """What one apt-get call leaves in the directory it runs in."""
        self._archives.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".fetching-", dir=self._archives))
        try:
            done = self._state(architecture).ask(["apt-get", *words], deadline, cwd=beside)
            found = sorted(path for path in beside.iterdir() if path.is_file())
            if done.rc or not found:
                raise HostError(f"cannot download: {complaint(done.output)}", where=words[-1], mend="see the network")
            yield found
        finally:
            shutil.rmtree(beside, ignore_errors=True)
