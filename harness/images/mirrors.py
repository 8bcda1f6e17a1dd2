"""Where this host gets Debian's packages from: read out of its own apt, or out of the environment; never edited."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.process import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "PINPOINT_MIRROR"
# What the recipes are made for where the host is no Debian and cannot tell.
_RELEASE = "bookworm"
_OS_RELEASE = Path("/etc/os-release")
_ASKING = 60.0
_NOT_OURS = tuple(
    f"Acquire::{group}"
    for group in ("Allow", "IndexTargets", "Languages", "GzipIndexes", "CompressionTypes", "Changelogs", "cdrom")
)


@dataclass(frozen=True)
class Repository:
    """One suite of one Debian mirror: what a line of an apt source list names."""

    uri: str
    suite: str

    def line(self, kind: str) -> str:
        """The one-line form, `kind` being `deb` or `deb-src`; only Debian's own archive keys may sign it."""
        return f"{kind} [signed-by={KEYRING}] {self.uri} {self.suite} main"


@dataclass(frozen=True)
class HostSource:
    """A repository in the host's own source lists; `codename` and `origin` are empty until its lists were fetched."""

    uri: str
    suite: str
    codename: str = ""
    origin: str = ""


def default_suites(os_release: Path = _OS_RELEASE) -> tuple[str, ...]:
    """The host's Debian release with its updates and security suites."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release.read_text() if os_release.exists() else "", re.M))
    release = fields.get("VERSION_CODENAME", _RELEASE) if fields.get("ID") == "debian" else _RELEASE
    return suites_of(release)


def suites_of(suite: str) -> tuple[str, ...]:
    """A release with its updates and security suites; what is no release, `bookworm-backports` say, stands alone."""
    return (suite,) if "-" in suite else (suite, f"{suite}-updates", f"{suite}-security")


def with_release(suite: str) -> tuple[str, ...]:
    """A suite and, for one that only extends a release, that release: its packages depend on the release's."""
    release = suite.partition("-")[0]
    return suites_of(suite) if release == suite else (suite, *suites_of(release))


def repositories(suites: Sequence[str]) -> list[Repository]:
    """Where each suite comes from, in order; one that the host has no mirror for is left out, unless it is the first.

    `PINPOINT_MIRROR` names the main archive; the security archive stands beside it, `-security` added to its path.
    Raises HostError when there is no mirror, or no keyring to check its signatures with.
    """
    if not KEYRING.exists():
        raise HostError("Debian's archive keys are missing", where=str(KEYRING), mend="install debian-archive-keyring")
    named = os.environ.get(MIRROR, "").rstrip("/")
    if named:
        return [Repository(f"{named}-security" if _of_security(suite) else named, suite) for suite in suites]
    known = host_sources()
    placed = [Repository(uri, suite) for suite in suites if (uri := place(suite, known))]
    if not placed or placed[0].suite != suites[0]:
        raise HostError(f"the host's apt has no Debian mirror for {suites[0]}", mend=f"set {MIRROR} to a mirror")
    return placed


def place(suite: str, known: Iterable[HostSource]) -> str:
    """The URI that serves a suite, of the host's repositories; empty when none does.

    Third parties name their suites after Debian's too. Once the host has fetched lists, the origin tells; before that
    the customary last word of the path does, and a wrong guess fails at the signature.
    """
    candidates = [source for source in known if source.origin in ("", "Debian")]
    exact = [source for source in candidates if suite in (source.suite, source.codename)]
    kin = [source for source in candidates if _customary(source) and _of_security(source.suite) == _of_security(suite)]
    ranked = sorted(exact, key=lambda source: (source.origin != "Debian", not _customary(source)))
    return next((source.uri for source in [*ranked, *kin]), "")


def _customary(source: HostSource) -> bool:
    return source.uri.rstrip("/").rpartition("/")[2] in ("debian", "debian-security")


def _of_security(suite: str) -> bool:
    return suite.endswith("-security")


def host_sources() -> list[HostSource]:
    """The repositories with a `main` component in the host's source lists; apt itself reads them, of either format."""
    form = "|".join(f"$({field})" for field in ("REPO_URI", "RELEASE", "CODENAME", "ORIGIN"))
    fetched: dict[tuple[str, str], tuple[str, str]] = {}
    for line in _apt("indextargets", "--format", form).splitlines():
        if line.count("|") == 3:
            uri, suite, codename, origin = line.split("|")
            fetched[uri.rstrip("/"), suite] = (codename, origin)
    # indextargets is silent on what was never fetched. An update that only prints what it would fetch is not.
    with tempfile.TemporaryDirectory() as empty:
        listed = _apt("update", "--print-uris", "-o", f"Dir::State::lists={empty}")
    places = dict.fromkeys(re.findall(r"^'(\S+)/dists/(\S+)/main/", listed, re.M))
    return [HostSource(uri, suite, *fetched.get((uri, suite), ("", ""))) for uri, suite in places]


def host_settings() -> list[str]:
    """The host's settings on how to reach a mirror, proxies above all, as lines of an apt configuration.

    Not among them: which lists to fetch and how to keep them, and any leave to do without signatures.
    """
    dumped = run(["apt-config", "dump"], deadline=Deadline.after(_ASKING), env={"LC_ALL": "C"}).output
    return [line for line in dumped.splitlines() if line.startswith("Acquire::") and not line.startswith(_NOT_OURS)]


def _apt(*arguments: str) -> str:
    return run(["apt-get", *arguments], deadline=Deadline.after(_ASKING), env={"LC_ALL": "C"}).output
