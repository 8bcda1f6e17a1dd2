"""The mirror of a suite is chosen from the host's sources, which are only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import HostError
from harness.images import host_apt_sources
from harness.images.host_apt_sources import (
    HostSource,
    default_suites,
    find_mirror_of_suite,
    host_sources,
    repositories_of_suites,
)

DEBIAN = "http://mirror.invalid/debian"
SECURITY = "http://mirror.invalid/debian-security"
VENDOR = HostSource("http://vendor.invalid/apt", "bookworm", "bookworm", "Vendor")


def test_the_hosts_sources_are_read_whatever_their_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources.list.d"
    sources.mkdir()
    (sources / "old.list").write_text(f"deb {SECURITY} bookworm-security main\ndeb-src {DEBIAN} sid main\n")
    (sources / "new.sources").write_text(
        f"Types: deb\nURIs: {DEBIAN}\nSuites: bookworm bookworm-updates\nComponents: main contrib\n"
        "\nTypes: deb\nURIs: http://vendor.invalid/apt\nSuites: bookworm\nComponents: stable\n"
    )
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{sources}";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    before = {path: path.read_bytes() for path in sources.iterdir()}
    assert {(source.uri, source.suite) for source in host_sources()} == {
        (DEBIAN, "bookworm"),
        (DEBIAN, "bookworm-updates"),
        (DEBIAN, "sid"),
        (SECURITY, "bookworm-security"),
    }
    assert before == {path: path.read_bytes() for path in sources.iterdir()}


@pytest.mark.parametrize(
    ("suite", "known", "expected"),
    [
        ("bookworm", [VENDOR, HostSource(DEBIAN, "bookworm", "bookworm", "Debian")], DEBIAN),
        ("bookworm", [HostSource("http://vendor.invalid/apt", "bookworm"), HostSource(DEBIAN, "bookworm")], DEBIAN),
        ("bookworm", [HostSource("http://m.invalid/x", "stable", "bookworm", "Debian")], "http://m.invalid/x"),
        ("bookworm-backports", [HostSource(SECURITY, "bookworm-security"), HostSource(DEBIAN, "bookworm")], DEBIAN),
        ("trixie-security", [HostSource(DEBIAN, "bookworm"), HostSource(SECURITY, "bookworm-security")], SECURITY),
        ("bookworm", [VENDOR], ""),
        ("bookworm", [], ""),
    ],
)
def test_which_mirror_serves_a_suite(suite: str, known: list[HostSource], expected: str) -> None:
    assert find_mirror_of_suite(suite, known) == expected


def test_a_named_mirror_is_used_together_with_security(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keyring = tmp_path / "archive.gpg"
    keyring.touch()
    monkeypatch.setattr(host_apt_sources, "KEYRING", keyring)
    monkeypatch.setenv(host_apt_sources.MIRROR_VARIABLE, f"{DEBIAN}/")
    lines = [found.source_list_line("deb") for found in repositories_of_suites(["bookworm", "bookworm-security"])]
    assert lines == [
        f"deb [signed-by={keyring}] {DEBIAN} bookworm main",
        f"deb [signed-by={keyring}] {SECURITY} bookworm-security main",
    ]


def test_missing_archive_keys_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_apt_sources, "KEYRING", tmp_path / "nothing.gpg")
    with pytest.raises(HostError, match="debian-archive-keyring") as caught:
        repositories_of_suites(["bookworm"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ('ID=debian\nVERSION_CODENAME="trixie"\n', "trixie"),
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "bookworm"),
        ("ID=fedora\nVERSION_CODENAME=''\n", "bookworm"),
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", "bookworm"),
        ("", "bookworm"),
    ],
)
def test_suites_follow_the_hosts_release(tmp_path: Path, text: str, release: str) -> None:
    (tmp_path / "os-release").write_text(text)
    expected = (release, f"{release}-updates", f"{release}-security")
    assert default_suites(tmp_path / "os-release") == expected


def test_a_suite_includes_its_updates_unless_it_complements_a_release() -> None:
    assert host_apt_sources.suites_of("bullseye") == ("bullseye", "bullseye-updates", "bullseye-security")
    assert host_apt_sources.suites_of("bookworm-backports") == ("bookworm-backports",)


def test_proxies_of_the_host_are_kept_and_its_leniency_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "apt.conf"
    config.write_text(
        'Acquire::http::Proxy "http://proxy.invalid:3128";\nAcquire::AllowWeakRepositories "true";\n'
        'APT::Update::Post-Invoke { "touch /tmp/harm"; };\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    kept = host_apt_sources.host_settings()
    assert 'Acquire::http::Proxy "http://proxy.invalid:3128";' in kept
    assert not [line for line in kept if "Allow" in line or "Invoke" in line]
