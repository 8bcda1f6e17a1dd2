"""Files that somebody else made, of kinds that block or never end, are refused in one line by each command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sparse_files
from test_replay import cell

from harness import cli, user_config
from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.core.files import read_regular_file
from harness.images import external_build
from harness.images.build_context import BuildContext
from harness.landing.code.system_map import SystemMap
from harness.matrix.verify import plan
from harness.matrix.verify.systemtap_run import parse_held_files_from_strace
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.report import merged_records_for_report
from harness.report.compare import FailureBaseline
from harness.report.page.case_docstrings import read_claims
from harness.report.record import Cell
from harness.report.run_dir import RunDirectory


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = [fifo, endless, sparse_files.make_sparse]
Make = Callable[[Path], None]


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert read_regular_file(path, 8) == b"12345678"
    with pytest.raises(OSError, match="is larger than 0 KiB"):
        read_regular_file(path, 7)


@pytest.mark.parametrize("name", ["figures.jsonl", "lost.jsonl", "timeline.jsonl", "trials.jsonl"])
def test_results(tmp_path: Path, make: Make, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.results_file.write_text(cell().model_dump_json(by_alias=True) + "\n")
    make(run.path / name)
    assert cli.main(["report", str(run.path)]) == 2
    refused = capfd.readouterr().err
    assert refused.count("\n") == 1
    assert name in refused


@pytest.mark.parametrize("read", [SystemMap.read, FailureBaseline.read], ids=["System.map", "baseline"])
def test_maps_and_baselines(tmp_path: Path, make: Make, read: Callable[[Path], object]) -> None:
    make(tmp_path / "file.toml")
    with pytest.raises(UsageError, match=r"file\.toml"):
        read(tmp_path / "file.toml")


def test_the_users_configuration(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    make(tmp_path / user_config.NAME)
    with pytest.raises(UsageError, match="cannot be read"):
        user_config.read()


def test_a_source_file_of_a_module(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "x.c")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UsageError, match=r"x\.c: is (?:not a regular file|larger than 256 MiB)"):
        external_build._lay_out(tmp_path / "x.c", tmp_path / "scratch")


def test_a_systemtap_script(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "x.stp")
    wanted = plan.VerifyRequest(script=str(tmp_path / "x.stp"))
    with pytest.raises(UsageError, match=r"x\.stp"):
        plan.compile_systemtap_script(wanted, None, BuildContext.in_cache(Bus()), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "file", ["/dev/zero", "/proc/kmsg", "../../etc/passwd", "cases/\0", "~", "cases/../conftest.py"]
)
def test_a_case_file_of_results_is_one_of_the_project(file: str) -> None:
    assert read_claims(file).file_claim == ""


@pytest.mark.parametrize("bundle", ["/etc", "../../etc", "bundles/../../../etc"])
def test_a_bundle_of_results_is_inside_its_run(tmp_path: Path, bundle: str) -> None:
    run = RunDirectory(tmp_path)
    about: Cell = cell().model_copy(update={"bundle": bundle})
    run.results_file.write_text(about.model_dump_json(by_alias=True) + "\n")
    found = merged_records_for_report.Material.read_runs([run], tmp_path)
    assert [each.bundle for each in found.cells] == [""]


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "/" + "x" * 300, "./a\0b", "./loop"])
def test_a_loader_that_is_no_path(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UsageError, match="--loader"):
        ForeignLoaderProgramAndArguments.parse_command_line(text)


def test_a_trace_of_a_guest_without_line_ends() -> None:
    unit = ") = 1</sys/module/x/sections/.text"
    for size in (1 << 16, 1 << 22):
        assert parse_held_files_from_strace("1 open(" + unit * (size // len(unit))).paths == ()


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "RUN", "RUN"],
        ["matrix", "RUN"],
        *(["export", "RUN", "--format", form] for form in ("ktap", "junit", "kcidb", "json", "markdown")),
    ],
    ids=" ".join,
)
def test_names_in_results_reach_no_terminal_as_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    names = {
        name: f"a\x1b]0;x\x07\r\nok 1\u202e`|<b>{name}" for name in ("case", "vm", "file", "kernel_release", "reason")
    }
    hostile = cell().model_copy(update=names)
    run.results_file.write_text(json.dumps(hostile.model_dump(mode="json", by_alias=True)) + "\n")
    assert cli.main([word.replace("RUN", str(run.path)) for word in words]) in (0, 1)
    printed = capfd.readouterr()
    assert not set("\x1b\x07\r\u202e") & set(printed.out + printed.err)
    # A line of its own would be a result in KTAP. In XML it is only text.
    assert "junit" in words or not [line for line in printed.out.splitlines() if line.startswith("ok 1`")]
