"""A Debian package is unpacked whole and in time, or an error reports it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from calls_in_threads import error_of_call_that_ends

from harness.core.errors import HostError
from harness.images import deb


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that puts a shell script in the place of a program."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()

    def replace(name: str, script: str) -> None:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    return replace


def archive(path: Path) -> Path:
    """Write a tar archive of two files of 100 bytes: each is a header and a block of 512 bytes."""
    with tarfile.open(path, "w") as out:
        for name in ("boot/first", "boot/second"):
            found = tarfile.TarInfo(name)
            found.size = 100
            out.addfile(found, io.BytesIO(b"x" * 100))
    return path


def read_all(package: Path) -> list[str]:
    return [name for name, _ in deb.files_in_order(package)]


def test_a_package_that_ends_between_two_files_is_not_complete(
    tmp_path: Path, program: Callable[[str, str], None]
) -> None:
    """tar and tarfile accept it; dpkg-deb reports it by its exit status alone."""
    whole = archive(tmp_path / "whole.tar")
    program("dpkg-deb", f"head -c 1024 {whole}; exit 2")
    for use in (lambda: deb.unpack(tmp_path / "a.deb", tmp_path / "unpacked"), lambda: read_all(tmp_path / "a.deb")):
        with pytest.raises(HostError, match=r"a\.deb: cannot unpack: dpkg-deb ended with status 2"):
            use()
    program("dpkg-deb", f"cat {whole}")
    deb.unpack(tmp_path / "a.deb", tmp_path / "unpacked")
    assert read_all(tmp_path / "a.deb") == ["boot/first", "boot/second"]


def test_links_before_a_file_are_passed_over(tmp_path: Path, program: Callable[[str, str], None]) -> None:
    """Debian's linux-image-7.3 has symbolic links, and a file of the next package is wanted."""
    linked = tmp_path / "linked.tar"
    with tarfile.open(linked, "w") as out:
        for name, kind in (("usr/share/doc", tarfile.SYMTYPE), ("usr/hard", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "elsewhere"
            out.addfile(link)
        found = tarfile.TarInfo("boot/first")
        found.size = 5
        out.addfile(found, io.BytesIO(b"first"))
    program("dpkg-deb", f"cat {linked}")
    assert read_all(tmp_path / "a.deb") == ["boot/first"]
    assert deb.read_first_file_named([tmp_path / "a.deb"], ["boot/first"]) == b"first"


@pytest.mark.parametrize("late", ["tar", "dpkg-deb"])
@pytest.mark.parametrize("script", ["trap '' TERM; sleep 100", "exec >&- 2>&-; sleep 100"])
def test_a_program_that_does_not_end_is_ended(
    tmp_path: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, late: str, script: str
) -> None:
    monkeypatch.setattr(deb, "_UNPACKING", 0.5)
    program("dpkg-deb", f"cat {archive(tmp_path / 'whole.tar')}")
    program(late, f"{'cat >/dev/null;' if late == 'tar' else ''} {script}")
    error = error_of_call_that_ends(lambda: deb.unpack(tmp_path / "a.deb", tmp_path / "unpacked"), HostError)
    assert "cannot unpack" in str(error)
