"""The project keeps its own rules: style, types, direction of imports, length of files, what may be committed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import doctor
from harness.core import paths
from harness.doctor import PACKAGES, parse_requirements

PROJECT = paths.PROJECT
# A package imports only packages to its left. Modules outside of these packages are to the right of them all.
PACKAGE_ORDER = ("core", "images", "guest", "landing", "userspace", "pinning", "verdict", "report", "matrix", "bench")
LONGEST_FILE = 350
NOT_OURS = {".git", "results", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


def committed() -> list[Path]:
    """Return every file that git tracks, or without git every file that no tool made."""
    if shutil.which("git") and (PROJECT / ".git").exists():
        listed = subprocess.run(["git", "-C", PROJECT, "ls-files", "-z"], capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            names = [name for name in listed.stdout.split("\0") if name]
            return [PROJECT / name for name in names if (PROJECT / name).is_file()]
    return [path for path in PROJECT.rglob("*") if path.is_file() and not NOT_OURS & set(path.parts)]


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of harness that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("harness."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "harness":
                yield from (f"harness.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("harness."):
                yield node.module


def position(module: str) -> int:
    """Return the position of a module's package from left to right."""
    name = module.split(".")[1]
    return PACKAGE_ORDER.index(name) if name in PACKAGE_ORDER else len(PACKAGE_ORDER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check"),
        ("ruff", "format", "--check"),
        ("mypy",),
        *(("mypy", f"tests/{suite}") for suite in ("decoders", "faults", "readers")),
    ],
    ids=["lint", "format", "types", "types-of-decoders", "types-of-faults", "types-of-readers"],
)
def test_style_and_types(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_go_left() -> None:
    wrong = []
    for path in sorted((PROJECT / "harness").rglob("*.py")):
        own = position(".".join(path.relative_to(PROJECT).with_suffix("").parts))
        wrong += [f"{path.relative_to(PROJECT)} imports {name}" for name in imports(path) if position(name) > own]
    assert wrong == []


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (PROJECT / "harness").rglob("*.py")}
    assert {str(path.relative_to(PROJECT)): count for path, count in lengths.items() if count > LONGEST_FILE} == {}


def test_nothing_built_is_committed() -> None:
    binary = [str(path) for path in committed() if b"\0" in path.read_bytes()]
    assert binary == []
    assert not [str(path) for path in committed() if path.suffix in {".ko", ".o", ".a", ".so", ".deb", ".whl", ".pyc"}]


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-installer.txt",
        "requirements-bench.txt",
        "requirements-build.txt",
        "requirements-decoders.txt",
        "requirements-hosts.txt",
        "requirements-tests.txt",
    ],
)
def test_requirements_are_locked_by_hash_and_name_no_address(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text
    pinned = re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    for requirement in pinned:
        assert re.match(r"[a-z0-9-]+==\S+( ;.*)? \\\n", requirement), requirement.splitlines()[0]
        assert "--hash=sha256:" in requirement, requirement.splitlines()[0]


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("dependencies", "requirements.txt"),
        ("bench", "requirements-bench.txt"),
        ("build", "requirements-build.txt"),
        ("check", "requirements.txt"),
        ("decoders", "requirements-decoders.txt"),
        ("hosts", "requirements-hosts.txt"),
        ("tests", "requirements-tests.txt"),
    ],
)
def test_every_dependency_is_locked(key: str, file: str) -> None:
    declared = re.search(rf"\n{key} = \[(.*?)\]\n", (PROJECT / "pyproject.toml").read_text(), re.DOTALL)
    assert declared
    names = [re.sub(r"[._]", "-", name) for name in re.findall(r'"([A-Za-z0-9._-]+)', declared[1])]
    locked = re.findall(r"^([a-z0-9-]+)==", (PROJECT / file).read_text(), re.MULTILINE)
    assert names
    assert [name for name in names if name.lower() not in locked] == []


def test_host_packages_are_named_once_and_documented() -> None:
    text = PACKAGES.read_text()
    lines = [line.split(None, 3) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(len(words) == 4 for words in lines)
    names = [words[0] for words in lines]
    assert sorted(set(names)) == sorted(names)
    on_x86 = {each.package for each in parse_requirements(text, "x86_64")}
    on_arm = {each.package for each in parse_requirements(text, "aarch64")}
    assert on_x86 - on_arm == {"gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"}
    assert on_arm - on_x86 == {"gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"}


def test_what_is_optional_is_reported_and_never_required(capsys: pytest.CaptureFixture[str]) -> None:
    text = PACKAGES.read_text()
    named = {each.package for each in doctor.parse_optional_requirements(text)}
    assert named == {"gdb-multiarch", "git", "openssh-client"}
    assert not named & {each.package for machine in ("x86_64", "aarch64") for each in parse_requirements(text, machine)}
    doctor.main()
    assert any("gdb-multiarch" in line for line in capsys.readouterr().out.splitlines())


def test_shell_scripts_parse() -> None:
    for script in ("pinpoint", ".ci/run"):
        assert subprocess.run(["sh", "-n", PROJECT / script], check=False).returncode == 0


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports a file by its name alone, so it would collect only one of two files with the same name.

    `./pinpoint test` collects both directories.
    """
    names = [path.name for directory in ("tests", "cases") for path in (PROJECT / directory).glob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    """Each module is imported in a process of its own, because some import cycles fail only in some orders.

    Modules that are not ours are imported once, before the processes are forked.
    """
    files = sorted((PROJECT / "harness").rglob("*.py"))
    modules = [".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in files]
    of_others = sorted({name for path in files for name in _imports_of_others(path)})
    script = """import importlib, os, sys
for name in sys.argv[1].split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for name in sys.argv[2:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, " ".join(of_others), *modules],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""


def _imports_of_others(path: Path) -> Iterator[str]:
    """The modules that a file imports when it is imported, without those of the harness."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] != "harness")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] != "harness":
            yield node.module


# Programs of the host: compilers, objdump, git, pip.
_HOST_WORK = {
    "harness/landing/checks/embedded_symbol_table_cost.py",
    "harness/landing/sites/objdump.py",
    "harness/matrix/commands/bisect_tree.py",
    "harness/matrix/commands/bisect_test.py",
    "harness/matrix/hosts/dask_packages.py",
    "harness/matrix/hosts/ssh_hosts.py",
}


def test_waits_for_a_guest_are_on_the_guests_clock() -> None:
    """A wall-clock deadline would report a guest that the host does not run as a hang: use guest.scaled_deadline()."""
    packages = ("landing", "userspace", "pinning", "verdict", "report", "matrix")
    places = [paths.CASES, *(PROJECT / "harness" / name for name in packages)]
    found = {
        str(path.relative_to(PROJECT))
        for place in places
        for path in place.rglob("*.py")
        if "Deadline.after(" in path.read_text()
    }
    assert found == _HOST_WORK
