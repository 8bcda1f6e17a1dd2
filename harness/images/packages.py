"""Debian packages by name through a private apt: the host's sources are only read, and nobody need be root."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError, RecipeError
from harness.core.events import Bus
from harness.core.files import digest, sha256
from harness.images import deb, mirrors
from harness.images.private_apt import SOURCE, AptState, complaint, first_paragraph, native

_ASKING = 60.0
# What apt-get --print-uris says of each file: 'URI' NAME SIZE SHA256:HEX.
_PRINTED = re.compile(r"^'\S+' (\S+) \d+ SHA256:([0-9a-f]{64})$", re.M)


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
        self._beside = root
        # A suite that extends a release is used with the release and without it: two states, two directories.
        beside = [name for name in self._suites[1:] if "-" not in name]
        self._root = root / "+".join([self._suites[0], *beside])
        self._bus = bus
        self._states: dict[str, AptState] = {}
        self._others: dict[str, Packages] = {}

    def of(self, suite: str) -> Packages:
        """Those of another suite, from the same mirror and under the same keys; these where none is named."""
        if not suite or suite == self._suites[0]:
            return self
        # What two threads make at once is the same twice: apt's own lock is a file.
        return self._others.setdefault(suite, Packages(self._beside, self._bus, mirrors.suites_of(suite)))

    def with_release(self, suite: str) -> Packages:
        """The packages of a suite and of the release that it extends, on which they depend."""
        suites = mirrors.with_release(suite)
        return self._others.setdefault("+".join(suites), Packages(self._beside, self._bus, suites))

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
        told = self._described(package, architecture)
        name = f"{package}_{told['Version']}_{told['Architecture']}.deb".replace(":", "%3a")
        words = ["download", f"{package}={told['Version']}"]
        return self._obtained(architecture, words, {name: told["SHA256"]}, deadline)[0]

    def closure(self, packages: Sequence[str], architecture: str) -> Mapping[str, str]:
        """File names and SHA-256 of the packages and all that apt would install with them on an empty system.

        Recommendations are left out. Raises RecipeError when they cannot be had together.
        """
        state = self._state(architecture)
        deadline = Deadline.after(_ASKING)

        def listed() -> dict[str, str]:
            words = ["install", "--print-uris", "--quiet=2", "--no-install-recommends", "--yes", *packages]
            told = state.ask(["apt-get", "-o", "Acquire::ForceHash=SHA256", *words], deadline)
            return {} if told.rc else dict(_PRINTED.findall(told.output))

        found = state.recall(f"closure {' '.join(packages)}", listed, deadline)
        if not found:
            raise self._none(f"way to install {', '.join(packages)} for {architecture}")
        return found

    def fetch_closure(self, packages: Sequence[str], architecture: str, *, deadline: Deadline) -> list[Path]:
        """The files of `closure`. Raises as it does."""
        files = self.closure(packages, architecture)
        exact = [_exact(name) for name in files]
        return self._obtained(architecture, ["download", *exact], files, deadline)

    def fetch_source(self, package: str, *, deadline: Deadline) -> SourcePackage:
        """The candidate of a source package. Raises RecipeError when there is none, HostError when it cannot be had."""
        state = self._state(SOURCE)
        words = ["source", "--download-only", "--only-source", package]

        def listed() -> dict[str, str]:
            told = state.ask(["apt-get", "--print-uris", *words], deadline)
            return {} if told.rc else dict(_PRINTED.findall(told.output))

        hashes = state.recall(f"source {package}", listed, deadline)
        if not hashes:
            raise self._none(f"source package {package!r}")
        paths = self._obtained(SOURCE, words, hashes, deadline)
        dsc = next(path for path in paths if path.suffix == ".dsc")
        stated = re.search(r"^Version: (\S+)$", dsc.read_text(), re.M)
        version = stated[1] if stated else dsc.stem.partition("_")[2]
        return SourcePackage(package, version, dsc, tuple(paths), digest(f"{name}={hashes[name]}" for name in hashes))

    def unpack(self, file: Path, into: Path) -> None:
        """Lay a package's files below `into`. Raises HostError when it cannot."""
        deb.unpack(file, into)

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
            raise self._none(f"package {package!r} for {architecture}")
        return found

    def _none(self, what: str) -> RecipeError:
        return RecipeError(f"no {what} in {self._suites[0]}", mend="mend kernel.package or kernel.suite")

    def _obtained(
        self, architecture: str, words: Sequence[str], hashes: Mapping[str, str], deadline: Deadline
    ) -> list[Path]:
        """Files by name and SHA-256: those kept, or what one apt-get call of `words` downloads."""
        paths = [self._archives / name for name in hashes]
        with self._state(architecture).held(deadline):
            if not self._wrong(paths, hashes):
                return paths
            self._archives.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=self._archives) as beside:
                done = self._state(architecture).ask(["apt-get", *words], deadline, cwd=Path(beside))
                if done.rc:
                    raise HostError(
                        f"cannot download: {complaint(done.output)}", where=words[-1], mend="see the network"
                    )
                for path in Path(beside).iterdir():
                    if path.is_file():
                        path.replace(self._archives / path.name)
        if wrong := self._wrong(paths, hashes):
            raise HostError("what was downloaded is not what the list has", where=str(wrong), mend="run again")
        return paths

    @staticmethod
    def _wrong(paths: Sequence[Path], hashes: Mapping[str, str]) -> Path | None:
        """The first file that is absent or not the one listed."""
        return next((path for path in paths if not path.exists() or sha256(path) != hashes[path.name]), None)

    def _state(self, architecture: str) -> AptState:
        """The apt state for an architecture, or for sources; packages for `all` are in every architecture's lists."""
        name = native() if architecture == "all" else architecture
        if name not in self._states:
            self._states[name] = AptState(self._root / name, name, self._suites, self._bus)
        return self._states[name]


def _exact(file: str) -> str:
    """What apt calls the very version of a package in a file so named: `zlib1g_1%3a1.2.13_amd64.deb`."""
    name, version, _ = file.split("_")
    return f"{name}={version.replace('%3a', ':')}"
