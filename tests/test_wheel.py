"""The wheel in a fresh environment, started from a directory of somebody else, runs a case of the example tree.

This test boots a real guest, unlike the others in tests/: `./pinpoint test faults`, the suite with real guests, is not
run by CI, and an installed Pinpoint that boots no guest proves little.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.prepare import image_key
from harness.images.vm_recipe import select

pytestmark = pytest.mark.slow

VM = "x86_64-debian"
# On a machine with an empty cache the run waits for the kernel, which the run of the cases builds at the same time.
_RUN_SECONDS = 1200
_KEPT = ("PATH", "HOME", "LANG", "XDG_CACHE_HOME", "PINPOINT_CACHE", "PINPOINT_MIRROR", "PINPOINT_KEEP_ROOT")
_KEPT_PREFIXES = ("PIP_", "SSL_", "http", "HTTP")


def environment(**more: str) -> Mapping[str, str]:
    """Return the variables of a user's shell: none of those that the launcher or pytest set for this process."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return {**kept, **more}


def pip(python: Path, *words: str | Path) -> None:
    """Run this environment's pip for another environment."""
    command = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    options = ["--no-build-isolation", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*command, *options, *words], env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh environment in which the wheel is installed, with the locked versions of what it needs."""
    place = tmp_path_factory.mktemp("wheel") / "environment"
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", place], timeout=120, check=True)
    locked = [f"--requirement={paths.PROJECT / name}" for name in ("requirements.txt", "requirements-build.txt")]
    pip(place / "bin/python", "--require-hashes", *locked)
    pip(place / "bin/python", paths.PROJECT)
    return place


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Return a directory whose Python files must not be imported, and which contains a copy of the example tree."""
    for name in ("conftest.py", "json.py", "harness/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise SystemExit('{name} of the starting directory was imported')\n")
    shutil.copytree(paths.PROJECT / "docs" / "example-tree", tmp_path / "mine")
    return tmp_path


def pinpoint(installed: Path, start: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a directory."""
    return subprocess.run(
        [installed / "bin/pinpoint", *words],
        cwd=start,
        env=environment(PINPOINT_NO_INSTALL="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )


def files(installed: Path) -> set[Path]:
    """Return the files of the environment's packages."""
    (packages,) = installed.glob("lib/python3*/site-packages")
    return {path for path in packages.rglob("*") if path.is_file()}


def test_it_runs_a_case_of_a_foreign_tree_on_an_image_of_the_source_tree(installed: Path, start: Path) -> None:
    before = files(installed)
    run = pinpoint(installed, start, "run", "--project", "mine", "--vm", VM, "-n", "0", "mine/cases")
    assert run.returncode == 0, run.stdout + run.stderr
    lines = (start / "results" / "latest" / "results.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    seen = [(cell["file"], cell["case"], cell["mutant"], cell["verdict"]) for cell in cells]
    assert seen == [
        ("cases/test_ring.py", "test_put", "one-instruction-off", "pass"),
        ("cases/test_ring.py", "test_put", "", "pass"),
    ]
    key = image_key(select([VM])[0], BuildContext.in_cache(Bus()))
    assert {cell["image_key"] for cell in cells} == {key}
    assert files(installed) == before


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("list", "--project", "nowhere"), "pinpoint: nowhere: --project names no directory; give one with"),
        (("test",), "pinpoint: an installed Pinpoint has no unit tests; run this command in the source tree"),
        (("sites", "--vm", VM), "pinpoint: give FUNC, --sample N or --all; for example: pinpoint sites vfs_read"),
    ],
    ids=["no-tree", "no-unit-tests", "wrong-use"],
)
def test_an_error_is_one_line(installed: Path, start: Path, words: tuple[str, ...], printed: str) -> None:
    done = pinpoint(installed, start, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(printed)
    assert "./pinpoint" not in done.stderr


def test_the_help_names_the_installed_command(installed: Path, start: Path) -> None:
    page = pinpoint(installed, start, "man")
    assert page.returncode == 0, page.stderr
    assert "Example: pinpoint compare" in page.stdout
    assert re.findall(r"\./pinpoint (.*)", page.stdout) == []


def test_a_session_of_another_project_is_left_as_it_is(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef vm():\n    return 1\n\ndef test_vm(vm):\n    assert vm == 1\n"
    )
    command = [str(installed / "bin/pytest"), "-q", "-p", "no:cacheprovider"]
    quiet = environment(PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True, timeout=120, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["test_theirs.py"]
    listed = subprocess.run(
        [*command, "--collect-only", "--vm", "nosuch"],
        cwd=tmp_path,
        env=quiet,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert listed.returncode == 4
    assert "no VM named 'nosuch'" in listed.stderr
