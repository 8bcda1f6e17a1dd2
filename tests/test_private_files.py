"""Only the owner may read caches, results and logs, also those that an earlier version made readable for others."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.private_files import keep_files_private


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def with_entries(directory: Path, *names: str) -> Path:
    """Return a directory with a file in each of its subdirectories, all readable for everybody."""
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "file").touch()
    directory.chmod(0o755)
    return directory


CACHE = ("store", "logs", "venv-e1cc6742c605dc8e", "tests-e79a1cd16fb50362-3.11", "apt", ".temporary")
RESULTS = ("20261128-055723-bea6", "replays")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A cache and results that an earlier version made."""
    cache, results = with_entries(tmp_path / "cache", *CACHE), with_entries(tmp_path / "results", *RESULTS)
    (results / "latest").symlink_to(RESULTS[0])
    (results / "history.sqlite").touch()
    monkeypatch.setenv("PINPOINT_CACHE", str(cache))
    monkeypatch.setenv("PINPOINT_RESULTS", str(results))
    return cache, results


def test_what_others_could_read_is_closed(places: tuple[Path, Path]) -> None:
    keep_files_private()
    assert [mode(place) for place in places] == [0o700] * 2
    (places[0] / "logs" / "new").touch()
    assert mode(places[0] / "logs" / "new") == 0o600


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "harness.cli", "completion", "bash"],
        ["-m", "pytest", "-p", "harness.plugin", "--vm=parisc", "--co", "-q"],
    ],
)
def test_each_start_closes_it(places: tuple[Path, Path], tmp_path: Path, words: list[str]) -> None:
    """By the command line, and by pytest alone."""
    (tmp_path / "test_case.py").write_text("def test_it(): pass\n")
    env = {**os.environ, "PYTHONPATH": str(paths.PROJECT)}
    subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=300)
    assert [mode(place) for place in places] == [0o700] * 2


def test_in_a_directory_of_others_only_ours_is_closed(places: tuple[Path, Path]) -> None:
    """Such as /tmp, which must stay open."""
    for place in places:
        with_entries(place, "of somebody else")
    keep_files_private()
    assert [mode(place) for place in places] == [0o755] * 2
    for place, names in zip(places, (CACHE, RESULTS), strict=True):
        assert {mode(place / name) for name in names if name[0] != "."} == {0o700}
        assert mode(place / "of somebody else") == 0o755
    assert mode(places[1] / "history.sqlite") == 0o600


def test_a_cache_that_is_not_there_or_not_ours_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "absent"))
    monkeypatch.setenv("PINPOINT_RESULTS", "/proc/1")
    keep_files_private()
