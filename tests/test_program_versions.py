"""A program's version is read once, and again when the program was replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import program_versions
from harness.core.errors import HostError


def install(directory: Path, version: str) -> None:
    """Install a program by renaming a new file, as a package manager does; the program records each start."""
    new = directory / "new"
    new.write_text(f"#!/bin/sh\necho started >>{directory}/starts\necho 'thing {version}'\necho more\n")
    new.chmod(0o755)
    new.replace(directory / "thing")


def test_a_version_is_asked_once_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    install(tmp_path, "version 7.2")
    assert [program_versions.first_version_line("thing") for _ in range(3)] == ["thing version 7.2"] * 3
    assert (tmp_path / "starts").read_text().count("started") == 1
    install(tmp_path, "version 9.0")
    assert program_versions.first_version_line("thing") == "thing version 9.0"
    assert (tmp_path / "starts").read_text().count("started") == 2


def test_a_program_that_is_not_there_is_an_error_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(HostError, match="thing is not installed"):
            program_versions.first_version_line("thing")
