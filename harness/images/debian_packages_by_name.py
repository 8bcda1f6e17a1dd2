"""Debian packages by name, through a private apt state: the host's sources are only read, and root is not needed."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import HostError, RecipeError
from harness.core.events import Bus
from harness.core.files import sha256, sha256_of_strings
from harness.images import deb, host_apt_sources, private_apt
from harness.images.private_apt import SOURCE, AptState, first_error, first_paragraph, host_debian_architecture

_APT_SECONDS = 60.0
# A line of apt-get --print-uris for each file: 'URI' NAME SIZE SHA256:HEX.
_PRINTED = re.compile(r"^'\S+' (\S+) \d+ SHA256:([0-9a-f]{64})$", re.M)

_NOT_FOUND = " 404 "
_DOWNLOAD_SOURCE = ("source", "--download-only", "--only-source")
# Without the .dsc and Debian's own files.
_TARBALL = ("--tar-only",)


@dataclass(frozen=True)
class FetchedSourcePackage:
    """A Debian source package, downloaded and checked; `files` are `dsc` and all files that it names.

    `sha256` is one digest of the files' hashes, which apt read from the signed list.
    """

    name: str
    version: str
    dsc: Path
    files: tuple[Path, ...]
    sha256: str


class Packages:
    """The packages of some Debian suites, for any architecture, stored below `root`.

    Package lists are fetched per architecture on first use, if they are absent or older than a day. apt checks
    signatures against Debian's archive keys. Files are kept and checked by hash before each use.
    """

    def __init__(self, root: Path, bus: Bus, suites: Sequence[str] = ()) -> None:
        self._suites = tuple(suites) or host_apt_sources.default_suites()
        self._parent = root
        # A suite that extends a release is used with the release and without it: two states, two directories.
        releases = [name for name in self._suites[1:] if "-" not in name]
        self._root = root / "+".join([self._suites[0], *releases])
        self._bus = bus
        self._states: dict[str, AptState] = {}
        self._others: dict[str, Packages] = {}

    def with_suite(self, suite: str) -> Packages:
        """Return the packages of another suite with the same mirror and keys; an empty name keeps the suite."""
        if not suite or suite == self._suites[0]:
            return self
        # Two threads may both create one here, which is harmless: the lock of an apt state is a file.
        return self._others.setdefault(suite, Packages(self._parent, self._bus, host_apt_sources.suites_of(suite)))

    def with_suite_and_base_release(self, suite: str) -> Packages:
        """Return the packages of a suite and of the release that it extends and depends on."""
        suites = host_apt_sources.suites_with_base_release(suite)
        return self._others.setdefault("+".join(suites), Packages(self._parent, self._bus, suites))

    def version(self, package: str, architecture: str) -> str:
        """Return the candidate version of a binary package. `architecture` is dpkg's name, or `all`.

        Raises RecipeError when there is no such package, HostError when no list can be fetched.
        """
        return self._described(package, architecture)["Version"]

    def hash(self, package: str, architecture: str) -> str:
        """Return the SHA-256 of the package's file from the signed list. Raises as `version`."""
        return self._described(package, architecture)["SHA256"]

    def depends(self, package: str, architecture: str) -> list[str]:
        """Return the names of a package's dependencies, the first of each set of alternatives. Raises as `version`."""
        wanted = self._described(package, architecture).get("Depends", "")
        return [re.split(r"[\s(|:]", clause.strip(), maxsplit=1)[0] for clause in wanted.split(",") if clause.strip()]

    def fetch(self, package: str, architecture: str, *, deadline: Deadline) -> Path:
        """Return the package's file, checked against the hash in the signed list. Raises as `version`."""
        fields = self._described(package, architecture)
        name = f"{package}_{fields['Version']}_{fields['Architecture']}.deb".replace(":", "%3a")
        words = ["download", f"{package}={fields['Version']}"]
        return self._obtained(architecture, words, {name: fields["SHA256"]}, deadline)[0]

    def closure_hashes(self, packages: Sequence[str], architecture: str) -> Mapping[str, str]:
        """Return file names and SHA-256 of the packages and of all dependencies that an empty system would need.

        Recommended packages are left out. Raises RecipeError when the packages cannot be installed together.
        """
        state = self._state(architecture)
        deadline = Deadline.after(_APT_SECONDS)

        def listed() -> dict[str, str]:
            words = ["install", "--print-uris", "--quiet=2", "--no-install-recommends", "--yes", *packages]
            printed = state.run_apt(["apt-get", "-o", "Acquire::ForceHash=SHA256", *words], deadline)
            return {} if printed.rc else dict(_PRINTED.findall(printed.output))

        found = state.cached_answer(f"closure {' '.join(packages)}", listed, deadline)
        if not found:
            raise self._none(f"way to install {', '.join(packages)} for {architecture}")
        return found

    def fetch_closure(self, packages: Sequence[str], architecture: str, *, deadline: Deadline) -> list[Path]:
        """Fetch the files of `closure_hashes` and return their paths. Raises as `closure_hashes`, and HostError."""
        files = self.closure_hashes(packages, architecture)
        return self._obtained(architecture, ["download"], files, deadline, exact=_exact)

    def fetch_source_package(self, package: str, *, deadline: Deadline) -> FetchedSourcePackage:
        """Fetch a source package: the candidate for a NAME, or a version for NAME=VERSION.

        Raises RecipeError when there is none, HostError when that fails.
        """
        hashes = self._source_files(package)
        paths = self._obtained(SOURCE, [*_DOWNLOAD_SOURCE, package], hashes, deadline)
        dsc = next(path for path in paths if path.suffix == ".dsc")
        stated = re.search(r"^Version: (\S+)$", dsc.read_text(), re.M)
        version = stated[1] if stated else dsc.stem.partition("_")[2]
        return FetchedSourcePackage(package, version, dsc, tuple(paths), _digest(hashes))

    def upstream_tarball_hash(self, package: str) -> str:
        """Return the SHA-256 of a source package's upstream tarball, from the signed list.

        `package` is as in `fetch_source_package`, and the errors are the same.
        """
        return _digest(self._source_files(package, *_TARBALL))

    def fetch_upstream_tarball(self, package: str, *, deadline: Deadline) -> Path:
        """Fetch only the upstream tarball of a source package, which mirrors keep longer than the other files.

        `package` is as in `fetch_source_package`, and the errors are the same.
        """
        hashes = self._source_files(package, *_TARBALL)
        paths = self._obtained(SOURCE, [*_DOWNLOAD_SOURCE, *_TARBALL, package], hashes, deadline)
        if len(paths) != 1:
            raise RecipeError(f"{package} has {len(paths)} upstream tarballs, not one", mend="name another package")
        return paths[0]

    def _source_files(self, package: str, *options: str) -> Mapping[str, str]:
        """Return file names and SHA-256 of a source package, or of the part that apt-get's options select."""
        state = self._state(SOURCE)
        deadline = Deadline.after(_APT_SECONDS)

        def listed() -> dict[str, str]:
            printed = state.run_apt(["apt-get", "--print-uris", *_DOWNLOAD_SOURCE, *options, package], deadline)
            return {} if printed.rc else dict(_PRINTED.findall(printed.output))

        found = state.cached_answer(" ".join(["source", *options, package]), listed, deadline)
        if not found:
            raise self._none(f"source package {package!r}")
        return found

    def used_answers(self) -> dict[str, dict[str, Any]]:
        """Return what this process has asked of the lists: by `SUITE/ARCHITECTURE`, as import_answers() takes it."""
        own = {f"{self._root.name}/{name}": state.used_answers() for name, state in self._states.items()}
        for other in self._others.values():
            own |= other.used_answers()
        return own

    def import_answers(self, found: Mapping[str, Mapping[str, Any]]) -> int:
        """Use the answers of another machine where this one has no lists; return the number of lists replaced so."""
        return sum(
            private_apt.import_answers(self._parent / suite, name, each["when"], each["suites"], each["answers"])
            for (suite, _, name), each in ((place.partition("/"), each) for place, each in found.items())
        )

    def unpack_deb(self, file: Path, into: Path) -> None:
        """Unpack a package's files below `into`. Raises HostError when that fails."""
        deb.unpack(file, into)

    @property
    def _archives(self) -> Path:
        return self._root / "archives"

    def _described(self, package: str, architecture: str) -> Mapping[str, str]:
        """Return the candidate's paragraph in the package list."""
        state = self._state(architecture)
        deadline = Deadline.after(_APT_SECONDS)

        def shown() -> dict[str, str]:
            printed = state.run_apt(["apt-cache", "show", "--no-all-versions", package], deadline)
            return {} if printed.rc else first_paragraph(printed.output)

        found = state.cached_answer(f"package {package}", shown, deadline)
        if not found:
            raise self._none(f"package {package!r} for {architecture}")
        return found

    def _none(self, what: str) -> RecipeError:
        return RecipeError(f"no {what} in {self._suites[0]}", mend="correct kernel.package or kernel.suite")

    def _obtained(
        self,
        architecture: str,
        words: Sequence[str],
        hashes: Mapping[str, str],
        deadline: Deadline,
        exact: Callable[[str], str] | None = None,
    ) -> list[Path]:
        """Return files by name and SHA-256: the kept files, or those that one `apt-get` with `words` downloads.

        With `exact`, the words are followed by what it returns for the name of each file that is not kept.
        """
        paths = [self._archives / name for name in hashes]
        with self._state(architecture).locked(deadline):
            wanted = [path.name for path in paths if self._wrong([path], hashes)]
            if not wanted:
                return paths
            if exact:
                words = [*words, *map(exact, wanted)]
            self._state(architecture).demand_lists()
            self._archives.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=self._archives) as scratch:
                done = self._state(architecture).run_apt(["apt-get", *words], deadline, cwd=Path(scratch))
                for path in Path(scratch).iterdir():
                    if path.is_file():
                        path.replace(self._archives / path.name)
                if done.rc:
                    reason = first_error(done.output)
                    # A mirror that is being updated can have a list without a file that it names.
                    lacks = _NOT_FOUND in reason
                    mend = f"try later, or set {host_apt_sources.MIRROR_VARIABLE}" if lacks else "check the network"
                    missing = self._wrong(paths, hashes) or paths[0]
                    raise HostError(f"cannot download: {reason}", where=missing.name, mend=mend)
        if wrong := self._wrong(paths, hashes):
            raise HostError("the downloaded file does not match the package list", where=str(wrong), mend="run again")
        return paths

    @staticmethod
    def _wrong(paths: Sequence[Path], hashes: Mapping[str, str]) -> Path | None:
        """Return the first file that is absent or has a wrong hash."""
        return next((path for path in paths if not path.exists() or sha256(path) != hashes[path.name]), None)

    def _state(self, architecture: str) -> AptState:
        """Return the apt state for an architecture or for sources; every architecture's lists include `all`."""
        name = host_debian_architecture() if architecture == "all" else architecture
        if name not in self._states:
            self._states[name] = AptState(self._root / name, name, self._suites, self._bus)
        return self._states[name]


def _digest(hashes: Mapping[str, str]) -> str:
    return sha256_of_strings(f"{name}={hashes[name]}" for name in hashes)


def _exact(file: str) -> str:
    """Return `PACKAGE=VERSION` for apt from a file name such as `zlib1g_1%3a1.2.13_amd64.deb`."""
    name, version, _ = file.split("_")
    return f"{name}={version.replace('%3a', ':')}"
