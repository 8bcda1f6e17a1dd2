"""Packages are fetched by a private apt, with signed lists and checked files."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from debian_repository import Repository, Signer, publish_whole_release

from harness.core.deadline import Deadline
from harness.core.errors import HostError, PinpointError, RecipeError
from harness.core.events import Bus, Event
from harness.images import deb, host_apt_sources
from harness.images.debian_packages_by_name import Packages
from harness.images.guest_packages_as_archive_or_disk import packages_of_suite_and_release
from harness.images.private_apt import first_error, first_paragraph

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def repository(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Repository:
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(signer.keyring)
    monkeypatch.setattr(host_apt_sources, "KEYRING", keyring)
    found = Repository(tmp_path / "debian", signer)
    monkeypatch.setenv(host_apt_sources.MIRROR_VARIABLE, found.uri)
    found.add("kernel", {"boot/vmlinuz": "a kernel"}, depends="real-kernel (= 6.1), helper | other, libc:any")
    found.add_source("busybox", "a tarball")
    found.publish()
    return found


@pytest.fixture
def events() -> list[Event]:
    return []


def packages(tmp_path: Path, events: list[Event] | None = None) -> Packages:
    bus = Bus()
    if events is not None:
        bus.add_listener(events.append)
    return Packages(tmp_path / "apt", bus, suites=["bookworm"])


def soon() -> Deadline:
    return Deadline.after(120)


def one_line(caught: pytest.ExceptionInfo[PinpointError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_package_is_described_fetched_and_unpacked(tmp_path: Path, repository: Repository) -> None:
    ours = packages(tmp_path)
    assert ours.version("kernel", "amd64") == "1.0-1"
    assert ours.depends("kernel", "amd64") == ["real-kernel", "helper", "libc"]
    file = ours.fetch("kernel", "amd64", deadline=soon())
    assert file.read_bytes() == (repository.root / "pool" / file.name).read_bytes()
    deb.unpack(file, tmp_path / "unpacked")
    assert (tmp_path / "unpacked/boot/vmlinuz").read_text() == "a kernel"


def test_one_file_comes_out_of_a_package(repository: Repository) -> None:
    file = repository.add("many", {"boot/a": "first", "boot/b": "second", "lib/c": "third" * 100_000})
    assert deb.read_first_file_named([file], ["boot/b"]) == b"second"
    with pytest.raises(HostError, match="has no file boot/c") as caught:
        deb.read_first_file_named([file], ["boot/c"])
    assert one_line(caught)


def test_a_file_is_looked_for_in_several_packages_by_several_names(repository: Repository) -> None:
    empty = repository.add("empty", {"usr/share/doc/empty": "nothing"})
    full = repository.add("full", {"usr/lib/modules/1/vmlinuz": "kernel"})
    assert deb.read_first_file_named([empty, full], ["boot/vmlinuz-1", "usr/lib/modules/1/vmlinuz"]) == b"kernel"


def test_a_damaged_package_is_one_line(tmp_path: Path, repository: Repository) -> None:
    file = repository.add("many", {"lib/c": "third" * 100_000})
    file.write_bytes(file.read_bytes()[:100])
    for use in (
        lambda: deb.read_first_file_named([file], ["lib/c"]),
        lambda: deb.unpack(file, tmp_path / "unpacked"),
    ):
        with pytest.raises(HostError, match="many") as caught:
            use()
        assert one_line(caught)


def test_a_closure_is_all_that_apt_would_install(tmp_path: Path, repository: Repository) -> None:
    repository.add("dropbear", {"bin/dropbear": "d"}, depends="libcrypt (>= 1) | nonesuch, libc", version="1:2-3")
    repository.add("libcrypt", {"lib/crypt": "c"}, depends="libc", version="2:1.0")
    repository.add("libc", {"lib/c": "c"})
    repository.add("unneeded", {"lib/u": "u"})
    repository.publish()
    files = packages(tmp_path).fetch_closure(["dropbear"], "amd64", deadline=soon())
    assert {file.name for file in files} == {
        "dropbear_1%3a2-3_amd64.deb",
        "libcrypt_2%3a1.0_amd64.deb",
        "libc_1.0-1_amd64.deb",
    }
    for file in files:
        deb.unpack(file, tmp_path / "unpacked")
    assert {path.name for path in (tmp_path / "unpacked").rglob("*") if path.is_file()} == {"dropbear", "crypt", "c"}


def test_a_closure_that_cannot_be_had_is_one_line(tmp_path: Path, repository: Repository) -> None:
    repository.add("dropbear", {"bin/dropbear": "d"}, depends="nonesuch")
    repository.publish()
    with pytest.raises(RecipeError, match="no way to install dropbear for amd64") as caught:
        packages(tmp_path).closure_hashes(["dropbear"], "amd64")
    assert one_line(caught)


def test_a_kept_file_that_changed_is_fetched_again(tmp_path: Path, repository: Repository) -> None:
    ours = packages(tmp_path)
    kept = ours.fetch("kernel", "amd64", deadline=soon())
    good = kept.read_bytes()
    kept.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert ours.fetch("kernel", "amd64", deadline=soon()).read_bytes() == good
    assert repository.root.exists()


def test_a_source_package_comes_with_all_its_files(tmp_path: Path, repository: Repository) -> None:
    ours = packages(tmp_path)
    source = ours.fetch_source_package("busybox", deadline=soon())
    assert (source.name, source.version, source.dsc.name) == ("busybox", "1.0-1", "busybox_1.0-1.dsc")
    assert {path.name for path in source.files} == {"busybox_1.0-1.dsc", "busybox_1.0-1.tar.gz"}
    assert (source.dsc.parent / "busybox_1.0-1.tar.gz").read_text() == "a tarball"
    assert ours.fetch_source_package("busybox", deadline=soon()) == source
    repository.add_source("busybox", "another tarball", version="1.0-2")
    repository.publish()
    later = packages(tmp_path / "later")
    assert later.fetch_source_package("busybox", deadline=soon()).sha256 != source.sha256
    older = later.fetch_source_package("busybox=1.0-1", deadline=soon())
    assert (older.version, older.sha256) == (source.version, source.sha256)


def test_of_a_source_package_only_the_tarball_is_needed(tmp_path: Path, repository: Repository) -> None:
    (repository.root / "pool/busybox_1.0-1.dsc").unlink()
    ours = packages(tmp_path)
    assert ours.fetch_upstream_tarball("busybox=1.0-1", deadline=soon()).read_text() == "a tarball"
    before = ours.upstream_tarball_hash("busybox=1.0-1")
    repository.add_source("busybox", "another tarball", version="1.0-2")
    repository.publish()
    later = packages(tmp_path / "later")
    assert later.upstream_tarball_hash("busybox=1.0-1") == before != later.upstream_tarball_hash("busybox")
    with pytest.raises(RecipeError, match=r"no source package 'busybox=0\.9-1'"):
        later.upstream_tarball_hash("busybox=0.9-1")


@pytest.mark.usefixtures("repository")
def test_no_such_package_is_one_line(tmp_path: Path) -> None:
    ours = packages(tmp_path)
    with pytest.raises(RecipeError, match="no package 'nonesuch' for amd64") as caught:
        ours.version("nonesuch", "amd64")
    assert one_line(caught)
    with pytest.raises(RecipeError, match="no source package 'nonesuch'"):
        ours.fetch_source_package("nonesuch", deadline=soon())


def test_lists_signed_by_another_key_are_refused(tmp_path: Path, repository: Repository) -> None:
    repository.signer = Signer()
    repository.publish()
    with pytest.raises(HostError, match="cannot fetch package lists") as caught:
        packages(tmp_path).version("kernel", "amd64")
    assert "signature" in one_line(caught).lower() or "not signed" in one_line(caught)


def test_unsigned_lists_are_refused_even_when_the_host_would_take_them(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.root / "dists/bookworm/Release.gpg").unlink()
    careless = tmp_path / "careless.conf"
    careless.write_text('Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n')
    monkeypatch.setenv("APT_CONFIG", str(careless))
    assert 'Acquire::AllowInsecureRepositories "true";' in subprocess.check_output(["apt-config", "dump"], text=True)
    with pytest.raises(HostError, match="cannot fetch package lists"):
        packages(tmp_path).version("kernel", "amd64")


def test_a_package_that_is_not_the_listed_one_is_refused(tmp_path: Path, repository: Repository) -> None:
    listed = repository.root / "pool/kernel_1.0-1_amd64.deb"
    content = listed.read_bytes()
    listed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HostError) as caught:
        packages(tmp_path).fetch("kernel", "amd64", deadline=soon())
    assert "kernel" in one_line(caught)


def test_answers_are_kept_with_the_lists(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages(tmp_path).version("kernel", "amd64")
    monkeypatch.setenv("PATH", "")
    again = packages(tmp_path)
    assert again.version("kernel", "amd64") == "1.0-1"
    with pytest.raises(HostError, match="not installed"):
        again.version("another", "amd64")
    assert repository.root.exists()


def make_old(tmp_path: Path) -> None:
    stamp = tmp_path / "apt/bookworm/amd64/refreshed.json"
    reported = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**reported, "when": reported["when"] - 2 * 86400}))


def test_old_lists_are_refreshed(tmp_path: Path, repository: Repository) -> None:
    assert packages(tmp_path).version("kernel", "amd64") == "1.0-1"
    repository.add("kernel", {"boot/vmlinuz": "a newer kernel"}, version="1.0-2")
    repository.publish()
    assert packages(tmp_path).version("kernel", "amd64") == "1.0-1"
    make_old(tmp_path)
    assert packages(tmp_path).version("kernel", "amd64") == "1.0-2"


def test_old_lists_serve_when_the_mirror_is_gone(tmp_path: Path, repository: Repository, events: list[Event]) -> None:
    packages(tmp_path).version("kernel", "amd64")
    make_old(tmp_path)
    repository.root.rename(tmp_path / "gone")
    assert packages(tmp_path, events).version("kernel", "amd64") == "1.0-1"
    assert any("not refreshed" in event.detail for event in events)


def test_no_mirror_and_no_lists_is_one_line(tmp_path: Path, repository: Repository) -> None:
    repository.root.rename(tmp_path / "gone")
    with pytest.raises(HostError, match="cannot fetch package lists") as caught:
        packages(tmp_path).version("kernel", "amd64")
    assert host_apt_sources.MIRROR_VARIABLE in one_line(caught)


@pytest.mark.usefixtures("repository")
def test_two_runs_at_once(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from harness.core.events import Bus
        from harness.images import deb, host_apt_sources
        from harness.images.debian_packages_by_name import Packages
        host_apt_sources.KEYRING = Path(sys.argv[2])
        print(Packages(Path(sys.argv[1]), Bus(), suites=["bookworm"]).version("kernel", "amd64"))
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "apt"), str(host_apt_sources.KEYRING)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [run.communicate(timeout=300)[0] for run in runs] == ["1.0-1\n"] * 3


def test_packages_of_another_suite_have_a_state_of_their_own(tmp_path: Path, repository: Repository) -> None:
    ours = packages(tmp_path)
    backports = Repository(repository.root, repository.signer, suite="bookworm-backports")
    backports.add("kernel", {"boot/vmlinuz": "a newer kernel"}, version="2.0-1")
    backports.publish()
    assert ours.with_suite("") is ours is ours.with_suite("bookworm")
    assert ours.with_suite("bookworm-backports") is ours.with_suite("bookworm-backports")
    assert (ours.version("kernel", "amd64"), ours.with_suite("bookworm-backports").version("kernel", "amd64")) == (
        "1.0-1",
        "2.0-1",
    )
    newer = ours.with_suite("bookworm-backports").fetch("kernel", "amd64", deadline=soon())
    assert deb.read_first_file_named([newer], ["boot/vmlinuz"]) == b"a newer kernel"
    assert newer.is_relative_to(tmp_path / "apt/bookworm-backports")


def test_a_backport_comes_with_what_its_release_has(tmp_path: Path, repository: Repository) -> None:
    repository.add("libc", {"lib/libc": "of the release"}, version="2.36-1")
    publish_whole_release(repository)
    backports = Repository(repository.root, repository.signer, suite="bookworm-backports")
    backports.add("kernel", {"boot/vmlinuz": "a newer kernel"}, depends="libc", version="2.0-1")
    backports.publish()
    together = packages(tmp_path).with_suite_and_base_release("bookworm-backports")
    assert set(together.closure_hashes(["kernel"], "amd64")) == {"libc_2.36-1_amd64.deb", "kernel_2.0-1_amd64.deb"}
    assert packages(tmp_path).version("kernel", "amd64") == "1.0-1"
    for_guests = packages_of_suite_and_release("bookworm-backports", packages(tmp_path))
    assert set(for_guests.closure_hashes(["libc"], "amd64")) == {"libc_2.36-1_amd64.deb"}
    assert together.fetch("kernel", "amd64", deadline=soon()).is_relative_to(
        tmp_path / "apt/bookworm-backports+bookworm"
    )


def _mismatch(repository: Repository, suite: str) -> None:
    """Make a suite's list differ from its signed index, as on a mirror in the middle of an update."""
    listed = repository.root / f"dists/{suite}/main/binary-amd64/Packages"
    listed.write_text(f"{listed.read_text()}\nPackage: later\nVersion: 1\nArchitecture: amd64\n")


def test_updates_whose_list_does_not_match_are_reported_and_left_out(tmp_path: Path, repository: Repository) -> None:
    updates = Repository(repository.root, repository.signer, suite="bookworm-updates")
    updates.add("kernel", {"boot/vmlinuz": "an update"}, version="3.0-1")
    updates.publish()
    bus, events = Bus(), list[Event]()
    bus.add_listener(events.append)
    whole = Packages(tmp_path / "whole", bus, suites=["bookworm", "bookworm-updates"])
    assert whole.version("kernel", "amd64") == "3.0-1"
    assert not [event for event in events if "without" in str(event)]
    _mismatch(repository, "bookworm-updates")
    without = Packages(tmp_path / "without", bus, suites=["bookworm", "bookworm-updates"])
    assert without.version("kernel", "amd64") == "1.0-1"
    assert [event for event in events if "without bookworm-updates: " in str(event)]


def test_a_release_whose_list_does_not_match_is_one_line(tmp_path: Path, repository: Repository) -> None:
    updates = Repository(repository.root, repository.signer, suite="bookworm-updates")
    updates.publish()
    _mismatch(repository, "bookworm")
    with pytest.raises(HostError, match="cannot fetch package lists") as caught:
        Packages(tmp_path / "apt", Bus(), suites=["bookworm", "bookworm-updates"]).version("kernel", "amd64")
    assert one_line(caught)


@pytest.mark.usefixtures("repository")
def test_a_suite_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nonesuch-backports") as caught:
        packages(tmp_path).with_suite("nonesuch-backports").version("kernel", "amd64")
    assert one_line(caught)


def test_the_private_configuration_is_closed_to_others(tmp_path: Path, repository: Repository) -> None:
    packages(tmp_path).version("kernel", "amd64")
    state = tmp_path / "apt/bookworm/amd64"
    # A mirror's address or a proxy may contain a password.
    for name in ("apt.conf", "sources.list", "refreshed.json"):
        assert (state / name).stat().st_mode & 0o077 == 0, name
    assert repository.uri in (state / "sources.list").read_text()


def test_a_paragraph_is_read_to_its_end() -> None:
    text = "Package: a\nDepends: b,\n c (>= 1)\nDescription: d\n\nPackage: another\n"
    assert first_paragraph(text) == {"Package": "a", "Depends": "b, c (>= 1)", "Description": "d"}
    assert first_paragraph("") == {}


def test_apts_complaint_is_one_line() -> None:
    output = "Reading...\nW: old\nE: Failed to fetch x  Could not resolve\nE: Some index files failed\n"
    assert first_error(output) == "Failed to fetch x  Could not resolve"
    assert first_error("gone\n") == "gone"
    assert first_error("") == "apt printed nothing"
