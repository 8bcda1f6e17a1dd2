"""`./pinpoint gc` removes unused entries from a cache and keeps those that another process uses."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import cli
from harness.core import paths
from harness.core.events import Bus
from harness.images.store import Store

DAY = 86400.0
USES = """
import sys
from pathlib import Path
from harness.core.events import Bus
from harness.images.store import Store
path = Path(sys.argv[1])
Store(path.parent, Bus()).hold_until_exit(path)
print("used", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache with entries of 1 MiB each that were used 0, 10 and 100 days ago."""
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path))
    store = Store(tmp_path / "store", Bus())
    for days in (0, 10, 100):

        def build(directory: Path, _: object) -> dict[str, str]:
            (directory / "vmlinux").write_bytes(os.urandom(1 << 20))
            return {}

        entry = store.obtain("kernel", [str(days)], vm="vm", build=build)
        age(entry.path, days)
    for handle in store._used.values():
        os.close(handle)
    return tmp_path


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def left(cache: Path) -> list[int]:
    """Return the ages of the entries that are left, in days."""
    found = (path for path in (cache / "store").iterdir() if not path.name.startswith("."))
    return sorted(round((time.time() - path.stat().st_mtime) / DAY) for path in found)


def using(path: Path) -> subprocess.Popen[str]:
    """Start a process that uses an entry until it ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", USES, str(path)],
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "used\n"
    return child


def test_an_entry_used_while_another_process_removed_it_is_held_when_used_again(cache: Path) -> None:
    """The mark of the first use could not be made; a run that counted it as made would lose the entry built again."""
    path = next(path for path in (cache / "store").iterdir() if not path.name.startswith("."))
    ours, others = Store(cache / "store", Bus()), Store(cache / "store", Bus())
    with ours._use_path(path.name).open("a") as removing:
        fcntl.flock(removing, fcntl.LOCK_EX)
        ours.hold_until_exit(path)
    ours.hold_until_exit(path)
    assert not others.remove_unless_in_use(path)
    assert path.is_dir()


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        ([], [0, 10]),
        (["--older", "5"], [0]),
        (["--older", "200"], [0, 10, 100]),
        (["--size", "0.0025"], [0, 10]),
        (["--size", "0"], []),
        (["--older", "50", "--size", "0.0015"], [0]),
        (["--size", "0", "--dry-run"], [0, 10, 100]),
    ],
)
def test_the_longest_unused_goes_first(
    cache: Path, options: list[str], stays: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["gc", *options]) == 0
    assert left(cache) == stays
    printed = capsys.readouterr().out
    assert printed.count("removed\n") == (3 if "--dry-run" in options else 3 - len(stays))
    assert "left in" in printed.splitlines()[-1]


def test_what_another_process_uses_stays(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oldest = max(
        (path for path in (cache / "store").iterdir() if path.name[0] != "."), key=lambda path: -path.stat().st_mtime
    )
    child = using(oldest)
    age(oldest, 100)
    store = Store(cache / "store", Bus())
    store.remove_unused_of_kind("kernel", 5 * DAY)
    assert left(cache) == [0, 100]
    assert cli.main(["gc", "--size", "0"]) == 0
    assert left(cache) == [100]
    assert f"{oldest.name}  0.00 GiB, unused for 100.0 days: is in use, and stays" in capsys.readouterr().out
    child.kill()
    child.communicate()
    assert cli.main(["gc", "--size", "0"]) == 0
    assert left(cache) == []


def test_a_clock_that_jumped_removes_nothing(cache: Path) -> None:
    for path in (cache / "store").glob("kernel-*"):
        age(path, -1000)
    assert cli.main(["gc"]) == 0
    assert len(left(cache)) == 3


@pytest.mark.parametrize("options", [["--older", "-1"], ["--size", "x"], ["--older", "1e99"]])
def test_wrong_use_is_one_line(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gc", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_empty_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "none"))
    assert cli.main(["gc"]) == 0
    assert not (tmp_path / "none").exists()


def test_an_entry_that_cannot_be_used_is_dropped_unless_another_process_uses_it(cache: Path) -> None:
    store = Store(cache / "store", Bus())
    path = store.entry_path("kernel", ["0"])
    store.hold_until_exit(path)
    child = using(path)
    store.remove("kernel", ["0"])
    assert path.is_dir()
    child.kill()
    child.communicate()
    # This process's own use is no obstacle.
    store.remove("kernel", ["0"])
    assert not path.exists()
    store.remove("kernel", ["0"])
    assert not path.exists()
