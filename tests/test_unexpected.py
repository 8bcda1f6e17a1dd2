"""Any unexpected error is one line with the right status, and nothing is imported from the current directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from harness import cli, cli_images
from harness.core import exception_as_pinpoint_error, paths

pytest_plugins = ["pytester"]
_PROGRAM = [sys.executable, "-P", "-m", "harness"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device", "/some/where"), "pinpoint: /some/where: No space left on device; "),
        (PermissionError(13, "Permission denied", b"/b\xff"), "Permission denied"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (ValueError("embedded\n\x1b[2Jnull"), "ValueError: embedded"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (OverflowError("x" * 10_000), "OverflowError"),
        (BlockingIOError(11, "would block"), "would block"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_nobody_foresaw_is_one_line_and_status_3(
    error: Exception,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path))
    monkeypatch.setattr(cli_images, "load_all", fail)
    monkeypatch.setattr(cli.process, "stop_all", lambda: None)
    assert cli.main(["list"]) == 3
    printed = capsys.readouterr().err
    assert expected in printed
    assert printed.count("\n") == 1
    assert printed[:-1].isprintable()
    assert len(printed) < 1000
    (kept,) = (tmp_path / "logs").iterdir()
    assert str(kept) in printed
    assert "in fail" in kept.read_text()
    assert kept.stat().st_mode & 0o77 == 0


def test_without_a_cache_the_traceback_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert f"the traceback is in {tmp_path}/traceback-" in str(
        exception_as_pinpoint_error.as_pinpoint_error(ValueError())
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert "no file" in str(exception_as_pinpoint_error.as_pinpoint_error(ValueError()))


def started(
    tmp_path: Path, *arguments: str, stderr: IO[bytes] | int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as the launcher starts it."""
    own = {"PINPOINT_CACHE": str(tmp_path), "PINPOINT_RESULTS": str(tmp_path / "results")}
    return subprocess.run(
        [*_PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT), **own, **environment},
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=300,
        check=False,
    )


def test_an_error_that_cannot_be_printed_is_not_status_1(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        assert started(tmp_path, "compare", str(tmp_path / "a"), str(tmp_path / "b"), stderr=full).returncode == 3


@pytest.mark.parametrize("variable", ["PINPOINT_RESULTS", "PINPOINT_CACHE"])
def test_a_loop_of_links_in_a_directorys_place_is_no_traceback(tmp_path: Path, variable: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    command = {"PINPOINT_RESULTS": "history", "PINPOINT_CACHE": "frob"}[variable]
    done = started(tmp_path, command, **{variable: str(tmp_path / "loop")})
    assert b"Traceback" not in done.stderr
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_a_damaged_environment_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('no click')\n")
    done = started(
        tmp_path, "list", PYTHONPATH=f"{tmp_path}:{paths.PROJECT}", PINPOINT_ENVIRONMENT=str(tmp_path / "venv")
    )
    expected = f"pinpoint: {tmp_path}/venv: the Python environment is damaged: no click; remove it\n"
    assert (done.returncode, done.stderr.decode()) == (3, expected)


def test_a_plugin_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    done = started(tmp_path, "run", "--vm", "parisc", "-p", "frob")
    assert done.returncode == 2
    assert done.stderr.startswith(
        b"pinpoint: -p: Error importing plugin \"frob\": No module named 'frob'; name a plugin"
    )


def test_without_a_temporary_directory_the_error_is_still_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setenv("PINPOINT_CACHE", "/dev/null/cache")
    monkeypatch.setattr("tempfile.gettempdir", fail)
    assert "no file" in str(exception_as_pinpoint_error.as_pinpoint_error(ValueError()))


@pytest.mark.slow
def test_results_that_cannot_be_written_are_a_failure_of_the_host(tmp_path: Path) -> None:
    done = started(tmp_path, "run", "--vm", "parisc", "-n", "0", PINPOINT_RESULTS="/dev/null/results")
    assert b"Exit: /dev/null/results: no results can be written: Not a directory; " in done.stderr
    assert done.returncode == 3


@pytest.mark.slow
def test_an_internal_error_of_a_run_is_one_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("PINPOINT_RESULTS", str(pytester.path / "results"))
    monkeypatch.setenv("PYTHONPATH", str(paths.PROJECT))
    pytester.makeconftest(
        """
        pytest_plugins = ["harness.plugin"]
        def pytest_collection_finish():
            raise OSError(28, "No space left on device", "/full")
        """
    )
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret == 3
    lines = [line for line in (*result.outlines, *result.errlines) if "INTERNALERROR" in line]
    assert len(lines) == 1
    assert "pinpoint: /full: No space left on device" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["run", "--dry-run", "--accel", "tcg"]])
def test_a_closed_output_is_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*_PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT), "PINPOINT_CACHE": str(tmp_path)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_nothing_is_imported_from_the_directory_one_starts_in(tmp_path: Path, workers: str) -> None:
    """Each of these modules would write a file if imported. Tests also run in processes of their own."""
    here = tmp_path / "here"
    here.mkdir()
    marker = tmp_path / "imported"
    for name in ("json", "pytest", "conftest", "sitecustomize", "socket", "harness", "execnet", "xdist", "_pytest"):
        (here / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write(__file__ + '\\n')\n")
    test = paths.TESTS / "test_locks.py"
    done = subprocess.run(
        [*_PROGRAM, "run", "-n", workers, "-q", str(test)],
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
            **{"PYTHONPATH": str(paths.PROJECT), "PINPOINT_CACHE": str(tmp_path / "cache")},
            **{"PINPOINT_RESULTS": str(tmp_path / "results")},
        },
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not marker.exists(), marker.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
