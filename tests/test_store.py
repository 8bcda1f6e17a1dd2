"""The store builds each entry once, keeps no partial entry, and detects damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.core import paths
from harness.core.errors import BuildError, HostError
from harness.core.events import Bus, Event, ProgressStep
from harness.core.files import code_sha256
from harness.images.store import Store

# Seconds for a Python process to start on a host that compiles.
SOON = 120.0


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def store(tmp_path: Path, events: list[Event]) -> Store:
    bus = Bus()
    bus.add_listener(events.append)
    return Store(tmp_path / "store", bus)


class Builder:
    """Writes a file, a link and a tree, and counts its calls."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self, directory: Path, _step: ProgressStep) -> Mapping[str, Any]:
        self.builds += 1
        (directory / "vmlinux").write_bytes(b"\x7fELF" * 1000)
        (directory / "latest").symlink_to("vmlinux")
        (directory / "tree/include").mkdir(parents=True)
        (directory / "tree/include/a.h").write_text("int a;\n")
        return {"release": "6.1.0", "objects": 412}


def output(events: list[Event]) -> str:
    return "\n".join(event.detail for event in events)


def test_built_once_then_kept(store: Store, events: list[Event]) -> None:
    build = Builder()
    first = store.obtain("kernel", ["a", "b"], vm="x", build=build)
    second = store.obtain("kernel", ["a", "b"], vm="y", build=build)
    assert build.builds == 1
    assert first == second
    assert second.facts == {"release": "6.1.0", "objects": 412}
    assert events[-1].vm == "y"
    assert events[-1].detail == "from the store"


def test_other_parts_are_another_entry(store: Store) -> None:
    build = Builder()
    keys = {
        store.obtain("kernel", parts, vm="x", build=build).key
        for parts in (["a", "b"], ["ab"], ["a", "b", ""], ["b", "a"])
    }
    assert len(keys) == build.builds == 4


def test_present_answers_without_building(store: Store) -> None:
    assert not store.present("kernel", ["a"])
    store.obtain("kernel", ["a"], vm="x", build=Builder())
    assert store.present("kernel", ["a"])
    assert not store.present("rootfs", ["a"])


def flip_a_byte(entry: Path) -> None:
    path = entry / "vmlinux"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def relink(entry: Path) -> None:
    (entry / "latest").unlink()
    (entry / "latest").symlink_to("elsewhere")


def alter_the_record(entry: Path) -> None:
    record = entry / "manifest.json"
    record.write_text(record.read_text().replace("6.1.0", "6.1.1"))


@pytest.mark.parametrize(
    ("harm", "reported"),
    [
        (flip_a_byte, "vmlinux has changed"),
        (relink, "latest has changed"),
        (alter_the_record, "manifest.json is damaged"),
        (lambda entry: (entry / "manifest.json").unlink(), "manifest.json is damaged"),
        (lambda entry: (entry / "vmlinux").unlink(), "vmlinux is missing"),
        (lambda entry: (entry / "tree/include/a.h").write_text(""), "tree/include/a.h has changed"),
        (lambda entry: (entry / "tree/GNUmakefile").touch(), "tree/GNUmakefile was added"),
        (lambda entry: (entry / "tree/b.h").symlink_to("/etc/passwd"), "tree/b.h was added"),
        (lambda entry: (entry / "a.so").touch(), "a.so was added"),
    ],
)
def test_damage_is_found_reported_and_repaired(
    store: Store, events: list[Event], harm: Callable[[Path], object], reported: str
) -> None:
    build = Builder()
    entry = store.obtain("kernel", ["a"], vm="x", build=build)
    harm(entry.path)
    mended = store.obtain("kernel", ["a"], vm="x", build=build)
    assert build.builds == 2
    assert f"damaged in the store: {reported}; building it again" in output(events)
    assert events[-1].detail == f"it was damaged in the store: {reported}"
    assert (mended.path / "vmlinux").read_bytes() == b"\x7fELF" * 1000
    assert mended.facts["release"] == "6.1.0"


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    def fail(directory: Path, _step: ProgressStep) -> Mapping[str, Any]:
        (directory / "half").write_text("half")
        raise BuildError("make failed")

    with pytest.raises(BuildError):
        store.obtain("kernel", ["a"], vm="x", build=fail)
    assert not store.present("kernel", ["a"])
    assert [path.name for path in store.root.iterdir()] == [".locks"]


def test_full_disk_is_one_line(store: Store) -> None:
    def fill(_directory: Path, _step: ProgressStep) -> Mapping[str, Any]:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        return {}

    with pytest.raises(HostError, match="the disk is full") as caught:
        store.obtain("kernel", ["a"], vm="x", build=fill)
    assert "\n" not in str(caught.value)
    assert [path.name for path in store.root.iterdir()] == [".locks"]


def test_compiler_without_room_is_a_full_disk(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("cc1: error\nfatal error: error writing to a.s: No space left on device\n")

    def fail(_directory: Path, _step: ProgressStep) -> Mapping[str, Any]:
        raise BuildError("make failed", log=log)

    with pytest.raises(HostError, match="the disk is full"):
        store.obtain("kernel", ["a"], vm="x", build=fail)


def test_a_cache_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the directory should be")
    with pytest.raises(HostError, match="store"):
        Store(tmp_path / "store", Bus()).obtain("kernel", ["a"], vm="x", build=Builder())


ANOTHER_RUN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from harness.core.events import Bus
    from harness.images.store import Store

    root = Path(sys.argv[1])
    bus = Bus()
    bus.add_listener(lambda event: print(event.detail, flush=True))

    def build(directory, step):
        (root.parent / "builds").open("a").write("one\\n")
        (directory / "half").write_text("half")
        print("building", flush=True)
        sys.stdin.readline()
        return {}

    Store(root, bus).obtain("kernel", ["a"], vm="x", build=build)
    """
)


def another_run(root: Path) -> subprocess.Popen[str]:
    """Start a process that builds until it gets a line of input."""
    command = [sys.executable, "-c", ANOTHER_RUN, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def let_go_on(run: subprocess.Popen[str]) -> str:
    """Let the build continue; return the rest of its output."""
    output, _ = run.communicate("\n", timeout=SOON)
    assert run.returncode == 0
    return output


def read_until(run: subprocess.Popen[str], word: str) -> None:
    assert run.stdout is not None
    for line in run.stdout:
        if word in line:
            return
    pytest.fail(f"the other run ended without {word!r}")


def test_two_runs_one_build(store: Store, tmp_path: Path) -> None:
    first = another_run(store.root)
    read_until(first, "building")
    second = another_run(store.root)
    read_until(second, "waiting")
    let_go_on(first)
    assert "from the store" in let_go_on(second)
    assert (tmp_path / "builds").read_text() == "one\n"


def test_a_killed_run_is_cleaned_up_after(store: Store) -> None:
    killed = another_run(store.root)
    read_until(killed, "building")
    killed.send_signal(signal.SIGKILL)
    killed.wait(SOON)
    assert list(store.root.glob(".building-*"))
    store.obtain("kernel", ["another"], vm="x", build=Builder())
    assert not list(store.root.glob(".building-*"))
    began = time.monotonic()
    store.obtain("kernel", ["a"], vm="x", build=Builder())
    assert time.monotonic() - began < SOON


def test_a_build_under_way_is_not_cleaned_up(store: Store) -> None:
    running = another_run(store.root)
    read_until(running, "building")
    store.obtain("kernel", ["another"], vm="x", build=Builder())
    let_go_on(running)
    assert store.present("kernel", ["a"])


@pytest.mark.slow
def test_threads_hash_code_side_by_side() -> None:
    """In Python 3.11 ast.parse() raises SystemError if two threads parse at once."""
    files = sorted((paths.PROJECT / "harness/images").glob("*.py")) * 4
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = list(pool.map(code_sha256, files))
    assert together == [code_sha256(path) for path in files]
