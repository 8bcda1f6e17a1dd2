"""The command line prints the right output and exits with the right status; no guest is started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli, cli_images, cli_runs
from harness.core import paths
from harness.core.errors import BuildError, RecipeError
from harness.images.vm_recipe import Recipe, load_all
from harness.matrix.commands.pytest_run import COMMON


@pytest.fixture(autouse=True)
def _signals_stay_as_they_are() -> Iterator[None]:
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for sign, handler in before.items():
        signal.signal(sign, handler)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project that a test may break."""
    for name in ("harness", "vm_images", "cases", "probes"):
        shutil.copytree(paths.PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml", "host-packages.txt"):
        shutil.copy(paths.PROJECT / name, tmp_path / name)
    return tmp_path


def pinpoint(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    cache = project / "cache"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "harness", *arguments],
        env={**os.environ, "PYTHONPATH": str(project), "PINPOINT_CACHE": str(cache)},
        cwd=project.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not (cache / "store").exists()
    return done


def test_unknown_vm_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run", "--vm", "nosuch"], ["build", "--vm", "x86_64-debian,nosuch"]):
        assert cli.main(command) == 2
        reported = capsys.readouterr()
        assert reported.out == ""
        assert reported.err.startswith("pinpoint: no VM named 'nosuch'; one of: arm64-16k, ")
        assert reported.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["list", "--format", "xml"], ["build", "--what"], ["run", "--vm"]]
)
def test_wrong_use_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_broken_recipe_stops_every_command_before_anything_is_built(project: Path) -> None:
    (project / "vm_images" / "parisc.toml").write_text('name = "parisc"\narhc = "parisc"\n')
    for command in (["run"], ["test"], ["build", "--vm", "parisc"]):
        done = pinpoint(project, *command)
        assert done.returncode == 2
        assert done.stderr.startswith("pinpoint: parisc.toml: ")
        assert done.stderr.count("\n") == 1
        assert not (project / "results").exists()


@pytest.mark.slow
def test_nothing_selected_is_wrong_use(project: Path) -> None:
    done = pinpoint(project, "run", "-k", "nothing_is_called_so")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no case matches" in done.stderr
    assert "nothing_is_called_so" in done.stderr


@pytest.mark.slow
def test_dry_run_prints_one_qemu_line_a_vm(project: Path) -> None:
    options = ("--accel", "tcg", "--host-qemu")
    done = pinpoint(project, "run", "--dry-run", *options, "--vm", "parisc", "--vm", "x86_64-debian")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["qemu-system-hppa", "qemu-system-x86_64"]
    assert all("restrict=on" in line and "-kernel KERNEL" in line for line in lines)


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli_images.prepare, "is_built", lambda recipe, _: recipe.name == "parisc")
    assert cli.main(["list", "--format", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name for name, row in rows.items() if row["built"]} == {"parisc"}
    assert rows["parisc"]["traits"]["module_stubs"] is True
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    assert "parisc  built\n" in text
    assert "x86_64-debian  not built\n" in text
    assert rows["x86_64-fdpin"]["same_kernel"] == ["x86_64-fsections", "x86_64-ibt", "x86_64-mutants"]
    assert "    same kernel as: x86_64-fsections, x86_64-ibt, x86_64-mutants\n" in text
    assert "    same objects as: x86_64-relinked\n" in text
    assert rows["x86_64-debian"]["same_kernel"] == rows["x86_64-debian"]["same_objects"] == []


@pytest.mark.parametrize(
    ("of_pytest", "ours"),
    [
        (pytest.ExitCode.OK, 0),
        (pytest.ExitCode.TESTS_FAILED, 1),
        (pytest.ExitCode.USAGE_ERROR, 2),
        (pytest.ExitCode.NO_TESTS_COLLECTED, 2),
        (pytest.ExitCode.INTERNAL_ERROR, 3),
        (pytest.ExitCode.INTERRUPTED, 3),
        (3, 3),
    ],
)
def test_exit_status(of_pytest: int, ours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest, "main", lambda _, plugins: of_pytest if plugins else None)
    assert cli.main(["test"]) == ours


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["-k", "stubs", "-x"], ["cases"]),
        ([f"{paths.CASES}/test_stubs.py"], []),
        ([f"{paths.CASES}/test_stubs.py::test_x"], []),
    ],
)
def test_cases_run_unless_tests_are_named(
    arguments: list[str], chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[str] = []
    monkeypatch.setattr(pytest, "main", lambda arguments, **_: handed.extend(arguments) or 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert cli.main(["run", "--vm", "parisc", *arguments]) == 0
    assert handed[len(COMMON) :] == [
        "--vm=parisc",
        *arguments,
        *(str(paths.PROJECT / name) for name in chosen),
    ]


@pytest.mark.parametrize(
    ("rows", "cores", "memory_gib", "given"),
    [
        (4, 1, 8, ["-n", "2", "--shards", "1"]),
        (4, 2, 8, ["-n", "4", "--shards", "1"]),
        (4, 2, 4, ["-n", "2", "--shards", "1"]),
        (1, 2, 8, ["-n", "2", "--shards", "2"]),
        (4, 64, 256, ["-n", "64", "--shards", "16"]),
        (1, 1, 8, []),
    ],
)
def test_as_many_processes_as_cores_and_memory_bear(
    rows: int, cores: int, memory_gib: int, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, memory_gib << 18))
    assert cli_runs._side_by_side(rows, []) == given
    assert cli_runs._side_by_side(rows, ["-s"]) == []


def test_a_failed_build_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "kernel.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))

    def fail(*_: object) -> None:
        raise BuildError("make failed", where="parisc", log=log)

    monkeypatch.setattr(cli_images.prepare, "prepare", fail)
    assert cli.main(["build", "--vm", "parisc"]) == 3
    reported = capsys.readouterr().err.splitlines()
    assert reported[0] == "    line 80"
    assert reported[-3:] == ["    line 99", f"    (the whole log: {log})", "pinpoint: parisc: parisc: make failed"]


def test_a_build_selects_vms_by_architecture_and_tier(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = []

    def record(recipe: Recipe, _: object) -> None:
        built.append(recipe.name)
        raise RecipeError("nothing is built here")

    monkeypatch.setattr(cli_images.prepare, "prepare", record)
    for options, expected in (
        (["--arch", "s390x"], {"s390x-debian"}),
        (["--matrix", "core"], {name for name, recipe in load_all().items() if recipe.tier == "core"}),
        (["--matrix", "full"], {name for name, recipe in load_all().items() if not recipe.kernel_mutants}),
    ):
        built.clear()
        assert cli.main(["build", *options]) == 2
        assert set(built) == expected
    assert cli.main(["build", "--matrix", "full", "--kernel", "bzImage"]) == 2
    assert "--kernel is for one VM" in capsys.readouterr().err


def test_the_worst_build_decides_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(recipe: object, _: object) -> None:
        raise RecipeError("no such package") if "parisc" in str(recipe) else BuildError("make failed")

    monkeypatch.setattr(cli_images.prepare, "prepare", fail)
    assert cli.main(["build", "--vm", "parisc"]) == 2
    assert cli.main(["build", "--vm", "parisc,x86_64-debian"]) == 3


def test_an_interrupted_build_does_not_finish_first(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def build(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(120), "the build ran to its end"

    monkeypatch.setattr(cli_images.prepare, "prepare", build)
    monkeypatch.setattr(cli.process, "stop_all", stopped.set)
    began = time.monotonic()
    assert cli.main(["build", "--vm", "parisc"]) == 130
    assert time.monotonic() - began < 60


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli_images.prepare, "prepare", interrupt)
    monkeypatch.setattr(cli.process, "stop_all", lambda: stopped.append("all"))
    # A process that was started in the background may have the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["build", "--vm", "parisc"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped


# Written out, because a list that is computed can be wrong together with what it is compared with.
COMMANDS = [
    *("bench", "bisect", "build", "check", "compare", "completion", "doctor", "export", "gc", "history"),
    *("kbuild-dir", "list", "man", "matrix", "merge", "report", "repro", "run", "scheduler", "shell"),
    *("sites", "store", "test", "verify", "worker"),
]


def test_every_command_is_found_in_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        command = cli.cli.get_command(cli.click.Context(cli.cli), name)
        assert command is not None
        assert command.name == name
    with pytest.raises(SystemExit):
        cli.cli.main(["-h"], prog_name="./pinpoint")
    reported = capsys.readouterr().out
    assert [line.split()[0] for line in reported.partition("Commands:\n")[2].splitlines() if line.strip()] == [
        *COMMANDS,
    ]


def test_a_command_imports_nothing_that_only_others_need() -> None:
    """`./pinpoint build` with nothing to build must start in less than half a second."""
    code = "import sys, harness.cli, harness.cli_images; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not {"pytest", "paramiko", "capstone", "hypothesis", "harness.bench.bench"} & set(done.stdout.split())
