"""A bundle from a stranger cannot run code, read files outside of itself, hang Pinpoint, or control the terminal."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sparse_files
from test_replay import FILE, ITEM, Runs, cell, repro

from harness.core import paths
from harness.core.files import sha256
from harness.matrix.commands import replay
from harness.report import bundle
from harness.report.bundle import BundleDescription

EVIL = "from pathlib import Path\nPath({place!r}).touch()\n\ndef test_evil(vm):\n    pass\n"
Change = dict[str, Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle as a run of Pinpoint writes it."""
    monkeypatch.setattr(replay, "image_key", lambda *_: "0123")
    about = BundleDescription(cell=cell(), file=FILE, items=[ITEM], options=["--stress=7"])
    return bundle.write_bundle(tmp_path, about, {"console.log": b"boot\n", "modules/x.ko": b"\x7fELF"})


def change(place: Path, of_cell: Change | None = None, **facts: object) -> Path:
    """Change fields of the bundle's description."""
    path = place / bundle.ABOUT
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, **facts, "cell": {**description["cell"], **(of_cell or {})}}))
    return place


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path) -> str:
    """Return the one line that refuses a bundle; fail if anything runs."""
    runs = Runs()
    assert repro(monkeypatch, runs, str(place)) == 2
    printed = capsys.readouterr()
    assert runs.arguments == []
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err[:-1].isprintable()
    return printed.err


def test_the_untouched_bundle_is_replayed(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    runs = Runs()
    repro(monkeypatch, runs, str(place))
    assert [words[-1] for words in runs.arguments] == [f"{paths.PROJECT / FILE}::{ITEM}"]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["results", "cases/nested", "tests", "harness", ".", "vm_images"])
def test_no_file_that_comes_with_a_bundle_is_imported(place: Path, tmp_path: Path, where: str) -> None:
    """The test uses the real command line in a copy of the project that has the stranger's file below it."""
    project, marker = tmp_path / "project", tmp_path / "ran"
    project.mkdir()
    for name in ("harness", "vm_images", "cases", "probes", "tests", "conftest.py", "pyproject.toml"):
        (project / name).symlink_to(paths.PROJECT / name)
    for name in ("cases", "vm_images", "tests", "harness"):
        (project / name).unlink()
        subprocess.run(["cp", "-r", paths.PROJECT / name, project / name], check=True)
    evil = project / where / "test_evil.py"
    evil.parent.mkdir(parents=True, exist_ok=True)
    evil.write_text(EVIL.format(place=str(marker)))
    item = f"test_evil[{cell().vm}]"
    facts = {"image_key": "", "kernel_release": "", "case": "test_evil", "mutant": ""}
    change(place, facts, file=os.path.relpath(evil, project), items=[item])
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "repro", str(place)],
        env={**os.environ, "PYTHONPATH": str(project), "PINPOINT_CACHE": str(tmp_path / "cache")},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is no case of this version of Pinpoint" in done.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    "file",
    [
        "tests/test_faults_killed.py",
        "cases",
        "cases/",
        "",
        "cases/../tests/test_cells.py",
        "cases//test_sites.py",
        "./cases/test_sites.py",
        "cases/test_sites.py\n",
        "cases/test_sites.py\0",
        f"{paths.CASES}/test_sites.py",
        f"cases/test_{'x' * 300}.py",
    ],
)
def test_only_a_case_file_is_collected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path, file: str
) -> None:
    assert "pinpoint: " in refused(monkeypatch, capsys, change(place, file=file))


@pytest.mark.parametrize(
    "facts",
    [
        {"items": []},
        {"items": ["test_kernel_function"]},
        {"items": [f"{ITEM}::x"]},
        {"items": [ITEM, "test_kernel_function[parisc-exported]"]},
        {"items": [f"{ITEM}\x1b]52;c;AA\x07"]},
        {"items": [f"{ITEM}\n"]},
        {"options": ["--stress=1\x1b[2J"]},
        {"options": ["--stress=99999999999999999999"]},
        {"options": ["--hypothesis-seed=x"]},
        {"options": ["--schedule=\u202eabc"]},
        {"schedule": "open\nread"},
        {"frozen": "\x1b]0;title\x07"},
        {"frozen": "../../etc"},
        {"of_cell": {"vm": ""}},
        {"of_cell": {"vm": "parisc,x86_64-debian"}},
        {"of_cell": {"vm": "../parisc"}},
        {"of_cell": {"vm": "x86_64-debian"}},
        {"of_cell": {"mutant": "next-symbol"}},
        {"of_cell": {"case": "\x9b2J"}},
        {"of_cell": {"image_key": ""}},
    ],
    ids=str,
)
def test_only_the_cell_of_one_vm_is_replayed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path, facts: Change
) -> None:
    if "image_key" in facts.get("of_cell", {}):
        facts["of_cell"]["kernel_release"] = "6.1"
    refused(monkeypatch, capsys, change(place, **facts))


def test_keys_that_nobody_knows_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    refused(monkeypatch, capsys, change(place, **{"a\nb\x1b[2J": 1}))


def _fifo(place: Path) -> None:
    os.mkfifo(place / "file")


def _sparse(place: Path) -> None:
    sparse_files.make_sparse(place / "file")


def _link(target: str) -> Callable[[Path], None]:
    return lambda place: (place / "file").symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [
        _fifo,
        _sparse,
        _link("/dev/zero"),
        _link("/etc/passwd"),
        _link("console.log"),
        lambda place: (place / "file").mkdir(),
    ],
    ids=["fifo", "sparse", "device", "outside", "inside", "directory"],
)
@pytest.mark.parametrize("name", ["file", bundle.ABOUT])
def test_only_regular_files_of_bounded_size_are_read(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Path,
    make: Callable[[Path], None],
    name: str,
) -> None:
    make(place)
    if name == bundle.ABOUT:
        (place / bundle.ABOUT).unlink()
        (place / "file").rename(place / bundle.ABOUT)
    else:
        change(place, files={"file": "0" * 64})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(monkeypatch, capsys, place)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "/proc/kmsg", "../outside", "link/passwd", "modules/../../outside", "", "x" * 300, "a\0", "\ud800"],
)
def test_no_file_outside_the_bundle_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path, name: str
) -> None:
    (place / "link").symlink_to("/etc")
    (place.parent / "outside").write_bytes(b"")
    digest = sha256(place.parent / "outside")
    assert "cannot" not in refused(monkeypatch, capsys, change(place, files={name: digest}))


def test_a_loop_of_links_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refused(monkeypatch, capsys, tmp_path / "loop")
