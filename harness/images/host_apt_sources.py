"""Debian mirrors of this host, read from its apt configuration or the environment; neither is ever changed."""

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
MIRROR_VARIABLE = "PINPOINT_MIRROR"
# The release that the recipes are made for, used if the host is not Debian.
_RELEASE = "bookworm"
_OS_RELEASE = Path("/etc/os-release")
_APT_SECONDS = 60.0
_NOT_OURS = tuple(
    f"Acquire::{group}"
    for group in ("Allow", "IndexTargets", "Languages", "GzipIndexes", "CompressionTypes", "Changelogs", "cdrom")
)


@dataclass(frozen=True)
class Repository:
    """One suite of one Debian mirror, as in a line of an apt source list."""

    uri: str
    suite: str

    def source_list_line(self, kind: str) -> str:
        """Return the line for a source list; `kind` is `deb` or `deb-src`. Only Debian's archive keys may sign it."""
        return f"{kind} [signed-by={KEYRING}] {self.uri} {self.suite} main"


@dataclass(frozen=True)
class HostSource:
    """A repository in the host's source lists; `codename` and `origin` are empty until its lists have been fetched."""

    uri: str
    suite: str
    codename: str = ""
    origin: str = ""


def default_suites(os_release: Path = _OS_RELEASE) -> tuple[str, ...]:
    """Return the host's Debian release with its updates and security suites."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release.read_text() if os_release.exists() else "", re.M))
    release = fields.get("VERSION_CODENAME", _RELEASE) if fields.get("ID") == "debian" else _RELEASE
    return suites_of(release)


def suites_of(suite: str) -> tuple[str, ...]:
    """Return a release with its updates and security suites; only the suite itself for `bookworm-backports`."""
    return (suite,) if "-" in suite else (suite, f"{suite}-updates", f"{suite}-security")


def suites_with_base_release(suite: str) -> tuple[str, ...]:
    """Return a release's suites; for a suite that extends a release, that suite and the release's suites."""
    release = suite.partition("-")[0]
    return suites_of(suite) if release == suite else (suite, *suites_of(release))


def repositories_of_suites(suites: Sequence[str]) -> list[Repository]:
    """Return the repository of each suite, in order, without suites that the host has no mirror for.

    `PINPOINT_MIRROR` is the main archive; the security archive is at the same path with `-security` appended. Raises
    HostError when the first suite has no mirror, or when the keyring for its signatures is missing.
    """
    if not KEYRING.exists():
        raise HostError("Debian's archive keys are missing", where=str(KEYRING), mend="install debian-archive-keyring")
    named = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
    if named:
        return [Repository(f"{named}-security" if _of_security(suite) else named, suite) for suite in suites]
    known = host_sources()
    placed = [Repository(uri, suite) for suite in suites if (uri := find_mirror_of_suite(suite, known))]
    if not placed or placed[0].suite != suites[0]:
        raise HostError(
            f"the host's apt has no Debian mirror for {suites[0]}", mend=f"set {MIRROR_VARIABLE} to a mirror"
        )
    return placed


def find_mirror_of_suite(suite: str, known: Iterable[HostSource]) -> str:
    """Return the URI of the host's repository that serves a suite; empty if none does.

    Other vendors also use Debian's suite names. Lists that the host has fetched contain the origin. Without lists, the
    last part of the path decides by convention, and a wrong guess fails at the signature.
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
    """Return the repositories with a `main` component in the host's source lists; apt reads both list formats."""
    form = "|".join(f"$({field})" for field in ("REPO_URI", "RELEASE", "CODENAME", "ORIGIN"))
    fetched: dict[tuple[str, str], tuple[str, str]] = {}
    for line in _apt("indextargets", "--format", form).splitlines():
        if line.count("|") == 3:
            uri, suite, codename, origin = line.split("|")
            fetched[uri.rstrip("/"), suite] = (codename, origin)
    # indextargets omits lists that were never fetched. An update that only prints URIs includes them.
    with tempfile.TemporaryDirectory() as empty:
        listed = _apt("update", "--print-uris", "-o", f"Dir::State::lists={empty}")
    places = dict.fromkeys(re.findall(r"^'(\S+)/dists/(\S+)/main/", listed, re.M))
    return [HostSource(uri, suite, *fetched.get((uri, suite), ("", ""))) for uri, suite in places]


def host_settings() -> list[str]:
    """Return the host's settings for access to mirrors, such as proxies, as lines of an apt configuration.

    Settings of which lists to fetch and how to store them, and permissions to skip signatures, are left out.
    """
    dumped = run(["apt-config", "dump"], deadline=Deadline.after(_APT_SECONDS), env={"LC_ALL": "C"}).output
    return [line for line in dumped.splitlines() if line.startswith("Acquire::") and not line.startswith(_NOT_OURS)]


def _apt(*arguments: str) -> str:
    return run(["apt-get", *arguments], deadline=Deadline.after(_APT_SECONDS), env={"LC_ALL": "C"}).output
