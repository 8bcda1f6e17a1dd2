"""A program is asked for its version once, and again when it is another."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import program_versions
from harness.core.errors import HostError


def install(directory: Path, says: str) -> None:
    """Put a program there, a new file next to the old one, as a package manager does; it notes each start."""
    beside = directory / "new"
    beside.write_text(f"#!/bin/sh\necho started >>{directory}/starts\necho 'thing {says}'\necho more\n")
    beside.chmod(0o755)
    beside.replace(directory / "thing")


def test_a_version_is_asked_once_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    install(tmp_path, "version 7.2")
    assert [program_versions.first_line("thing") for _ in range(3)] == ["thing version 7.2"] * 3
    assert (tmp_path / "starts").read_text().count("started") == 1
    install(tmp_path, "version 9.0")
    assert program_versions.first_line("thing") == "thing version 9.0"
    assert (tmp_path / "starts").read_text().count("started") == 2


def test_a_program_that_is_not_there_is_an_error_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(HostError, match="thing is not installed"):
            program_versions.first_line("thing")
