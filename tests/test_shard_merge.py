"""Shards divide a run without overlap, and a merge in which a shard is missing fails."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sample_runs
import sparse_files

from harness import cli
from harness.core import paths
from harness.core.errors import UsageError
from harness.matrix.commands.merge_shards import ExpectedShard, MergedRun, merge, read_expected_shards
from harness.matrix.shard import Shard
from harness.report.record import Cell, Results
from harness.report.run_dir import RunDirectory
from harness.report.shard_file import CellOfShard, ShardRecord, read_shard_record, write_shard_record
from harness.verdict.cell_verdict_enum import Verdict

CASES = [f"test_{number}" for number in range(6)]


def shard_of(case: str) -> int:
    return CASES.index(case) // 2 + 1


def shard(root: Path, number: int, vm: str = "parisc", **changed: object) -> RunDirectory:
    """Write the run of one of three shards with two cells."""
    run = RunDirectory.create(root)
    for case in CASES:
        if shard_of(case) == number:
            verdict = changed.get("verdict", Verdict.PASS)
            assert isinstance(verdict, Verdict)
            Results(run).write(sample_runs.cell(case, vm, verdict))
    (run.path / "console" / f"{vm}.log").write_text(f"console of {number}\n")
    cells = [CellOfShard(file=sample_runs.FILE, case=case, vm=vm, mutant="", shard=shard_of(case)) for case in CASES]
    write_shard_record(run, ShardRecord(shard=number, count=3, cells=cells))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    """Return the runs of the three shards."""
    return [shard(tmp_path / "results", number) for number in (1, 2, 3)]


def merged(runs: list[RunDirectory], *expected: ExpectedShard) -> MergedRun:
    return merge(runs, expected, runs[0].path.parents[1] / "merged")


def test_all_shards_make_one_run(runs: list[RunDirectory]) -> None:
    found = merged(runs, *(ExpectedShard(vm="parisc", shard=f"{number}/3") for number in (1, 2, 3)))
    assert (found.status, found.problems, found.missing) == (0, [], [])
    assert Counter(cell.case for cell in Results(found.directory).read_cells()) == Counter(CASES)
    assert found.directory.pytest_junit_file.read_text().count("<testcase") == 6
    assert found.directory.html_report_file.exists()
    assert [log.read_text() for log in sorted((found.directory.path / "console").iterdir())] == [
        f"console of {number}\n" for number in (1, 2, 3)
    ]
    assert len(found.directory.console_logs_of_vm("parisc")) == 3


@pytest.mark.parametrize("absent", [1, 2, 3])
def test_a_missing_shard_fails_and_its_cells_are_named(runs: list[RunDirectory], absent: int) -> None:
    del runs[absent - 1]
    found = merged(runs)
    assert found.status == 1
    assert found.problems == [f"parisc: shard {absent}/3 is missing, with 2 cells"]
    assert [lost.case for lost in found.missing] == [case for case in CASES if shard_of(case) == absent]


def forget_a_result(run: RunDirectory) -> None:
    lines = run.results_file.read_text().splitlines(keepends=True)
    run.results_file.write_text("".join(lines[:-1]))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda run: run.shard_file.unlink(), "has no shard.json"),
        (lambda run: run.shard_file.write_text("{"), "has no shard.json"),
        (lambda run: run.results_file.open("a").write('{"torn'), "1 results cannot be read"),
        (lambda run: Results(run).write(sample_runs.cell("test_5", "parisc")), "1 results are of no cell of its shard"),
        (
            lambda run: run.results_file.write_text(run.results_file.read_text().replace("image-of-parisc", "other")),
            "its shards ran on 2 images",
        ),
        (forget_a_result, ""),
    ],
)
def test_what_a_shard_lacks_fails_the_merge(
    runs: list[RunDirectory], harm: Callable[[RunDirectory], object], problem: str
) -> None:
    harm(runs[0])
    found = merged(runs)
    assert found.status == 1
    assert any(problem in line for line in found.problems) or (not problem and found.missing)


def test_a_shard_that_came_twice_fails_the_merge(runs: list[RunDirectory], tmp_path: Path) -> None:
    found = merged([*runs, shard(tmp_path / "results", 2)])
    assert found.status == 1
    assert found.problems == ["parisc: shard 2/3 is there 2 times"]
    assert len(found.cells) == 6


def test_an_expected_vm_of_which_nothing_came_fails_the_merge(runs: list[RunDirectory]) -> None:
    found = merged(runs, ExpectedShard(vm="parisc", shard="3/3"), ExpectedShard(vm="arm64-debian", shard="1/1"))
    assert found.status == 1
    assert found.problems == ["arm64-debian: shard 1/1 is missing"]


@pytest.mark.parametrize(("verdict", "status"), [(Verdict.FAIL, 1), (Verdict.HARNESS_ERROR, 3), (Verdict.SKIP, 0)])
def test_the_status_is_that_of_a_run(tmp_path: Path, verdict: Verdict, status: int) -> None:
    runs = [shard(tmp_path / "results", number, verdict=verdict) for number in (1, 2, 3)]
    assert merged(runs).status == status


def baseline_file(directory: Path, verdict: Verdict, cases: list[str]) -> str:
    """Write a baseline file that lists the cases."""
    entry = '[[known]]\ncase = "{}"\nvm = "parisc"\nverdict = "{}"\nreason = "r"\nowner = "o"\n'
    file = directory / "known.toml"
    file.write_text("".join(entry.format(case, verdict.value) for case in cases))
    return str(file)


@pytest.mark.parametrize(
    ("verdict", "listed", "status"),
    [
        (Verdict.PASS, [], 0),
        (Verdict.FAIL, CASES, 0),
        (Verdict.FAIL, CASES[1:], 1),
        # A harness error stays one, also if it is listed.
        (Verdict.HARNESS_ERROR, CASES, 3),
    ],
)
def test_known_failures_do_not_fail_a_merge(
    tmp_path: Path, verdict: Verdict, listed: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(shard(tmp_path / "results", number, verdict=verdict).path) for number in (1, 2, 3)]
    words = ["--baseline", baseline_file(tmp_path, verdict, listed), "--into", str(tmp_path / "merged")]
    assert cli.main(["merge", *words, *runs]) == status
    printed = capsys.readouterr().out.splitlines()
    assert Path(printed[-1]).parent == tmp_path / "merged"
    assert any(line.startswith("new failures (1)") for line in printed) == (status == 1)


@pytest.mark.parametrize(
    "harm",
    [
        lambda runs: runs.pop(),
        lambda runs: forget_a_result(runs[0]),
        lambda runs: runs[1].shard_file.unlink(),
        lambda runs: runs[1].results_file.open("a").write('{"torn'),
    ],
    ids=["a missing shard", "a lost cell", "a shard that did not end", "a torn result"],
)
@pytest.mark.parametrize("as_run", [False, True])
def test_no_baseline_excuses_an_incomplete_merge(
    tmp_path: Path, harm: Callable[[list[RunDirectory]], object], as_run: bool
) -> None:
    """The baseline has every failure, or is a run in which the same cells failed."""
    runs = [shard(tmp_path / "results", number, verdict=Verdict.FAIL) for number in (1, 2, 3)]
    before = merged(runs).directory.path
    harm(runs)
    baseline = str(before) if as_run else baseline_file(tmp_path, Verdict.FAIL, CASES)
    words = ["--baseline", baseline, "--into", str(tmp_path / "merged")]
    assert cli.main(["merge", *words, *(str(run.path) for run in runs)]) == 1


def test_a_merge_is_compared_with_an_earlier_run(tmp_path: Path) -> None:
    results, into = tmp_path / "results", ["--into", str(tmp_path / "merged")]
    before, bad, skipped = (
        [shard(results, number, verdict=verdict) for number in (1, 2, 3)]
        for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.SKIP)
    )
    good = ["--baseline", str(merged(before).directory.path), *into]
    assert cli.main(["merge", *good, *(str(run.path) for run in before)]) == 0
    assert cli.main(["merge", *good, *(str(run.path) for run in bad)]) == 1
    assert cli.main(["merge", *good, *(str(run.path) for run in skipped)]) == 0
    assert cli.main(["merge", *good, "--strict", *(str(run.path) for run in skipped)]) == 1
    assert cli.main(["merge", "--baseline", str(tmp_path / "none"), *into, str(before[0].path)]) == 2


def test_the_command_prints_each_problem(
    runs: list[RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.json").write_text('{"include": [{"vm": "parisc", "shard": "1/3"}, {"vm": "x", "shard": "1/1"}]}')
    words = ["--expected", str(tmp_path / "jobs.json"), "--into", str(tmp_path / "merged")]
    assert cli.main(["merge", *words, *(str(run.path) for run in runs[1:])]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "pinpoint: parisc: shard 1/3 is missing, with 2 cells",
        "pinpoint: parisc: shard 1/3 is missing",
        "pinpoint: x: shard 1/1 is missing",
    ]
    assert Path(printed.out.splitlines()[-1]).parent == tmp_path / "merged"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"include": [{"vm": "../x", "shard": "1/1"}]}', '{"include": 1}', "[" * 9000]
)
def test_a_wrong_list_of_jobs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(UsageError, match="is no list of jobs"):
        read_expected_shards(tmp_path / "jobs.json")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/4", "x"])
def test_a_wrong_shard_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="is no shard"):
        Shard.parse(text)


pytest_plugins = ["pytester"]

RUN = """
import harness.matrix.guests.fleet as fleet
from harness.core.errors import HostError

pytest_plugins = ["harness.plugin"]


def refuse(self, name):
    raise HostError("no guest here")


fleet.Fleet._prepare_and_start = refuse
fleet.Fleet.start_building = lambda self, names, compared: None
"""
CASE = """
import pytest

@pytest.mark.parametrize("number", range(7))
@pytest.mark.mutants("one-instruction-off")
def test_it(vm, mutant, number):
    assert number is None

def test_other(vm):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_shards_of_real_runs_have_each_cell_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    """The cells fail, because no guest starts; what counts is which cells each shard runs."""
    monkeypatch.setenv("PINPOINT_RESULTS", str(pytester.path / "results"))
    monkeypatch.setenv("PINPOINT_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(paths.PROJECT))
    pytester.makeconftest(RUN)
    pytester.makepyfile(CASE)
    ran: Counter[tuple[str, str, str, str]] = Counter()
    records = []
    for number in (1, 2, 3):
        vms = "--vm=x86_64-debian,parisc"
        pytester.runpytest_subprocess(vms, "--deep", f"--shard={number}/3", "-n", processes, "-p", "no:cacheprovider")
        run = RunDirectory((pytester.path / "results/latest").resolve())
        cells = Results(run).read_cells()
        record = read_shard_record(run)
        assert record
        assert {cell.key for cell in cells} == {each.key for each in record.cells if each.shard == number}
        # A case and its mutant stay together.
        assert all(Counter((cell.vm, cell.case) for cell in cells)[of(cell)] == 2 for cell in cells if cell.mutant)
        records.append(record.whole_run)
        ran.update(cell.key for cell in cells)
    assert len(set(records)) == 1
    assert len(ran) == 2 * (7 * 2 + 1)
    assert set(ran.values()) == {1}


def of(cell: Cell) -> tuple[str, str]:
    return cell.vm, cell.case


@pytest.mark.slow
def test_a_wrong_shard_is_wrong_use(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--vm", "parisc", "--shard", "5/4", "-n", "0"]) == 2
    assert "--shard: '5/4' is no shard; as --shard 2/4" in capfd.readouterr().err


def test_the_record_is_json_that_others_can_read(runs: list[RunDirectory]) -> None:
    record = json.loads(runs[1].shard_file.read_text())
    assert (record["schema"], record["shard"], record["count"], len(record["cells"])) == (1, 2, 3, 6)


def test_a_merge_writes_nothing_through_links_of_a_run(runs: list[RunDirectory], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept\n")
    first, second = (run.bundles_directory / "parisc" for run in runs[:2])
    first.mkdir(parents=True)
    (first / "cell").symlink_to(victim)
    (first / "file").symlink_to(victim / "file")
    (second / "cell").mkdir(parents=True)
    (second / "cell" / "test_new.py").write_text("new\n")
    (second / "file").write_text("new\n")
    found = merged(runs)
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "kept\n"
    assert not [path for path in found.directory.path.rglob("*") if path.is_symlink()]
    assert found.problems == [f"{runs[0].name}: 2 files are links, devices or too large and were left out"]
    assert (found.directory.bundles_directory / "parisc/cell/test_new.py").read_text() == "new\n"


def _link_bundles(run: RunDirectory, secret: Path) -> None:
    run.bundles_directory.symlink_to(secret)


def _link_console(run: RunDirectory, secret: Path) -> None:
    shutil.rmtree(run.path / "console")
    (run.path / "console").symlink_to(secret)


def _sparse_log(run: RunDirectory, _secret: Path) -> None:
    sparse_files.make_sparse(run.path / "console" / "parisc.log")


def _fifo(run: RunDirectory, _secret: Path) -> None:
    run.bundles_directory.mkdir()
    os.mkfifo(run.bundles_directory / "fifo")


def _deep(run: RunDirectory, _secret: Path) -> None:
    (run.bundles_directory / "/".join("d" * 100)).mkdir(parents=True)


@pytest.mark.parametrize("change", [_link_bundles, _link_console, _sparse_log, _fifo, _deep])
def test_a_merge_copies_regular_files_of_the_run_only(
    runs: list[RunDirectory], tmp_path: Path, change: Callable[[RunDirectory, Path], None]
) -> None:
    (secret := tmp_path / "secret").mkdir()
    (secret / "key.log").write_text("secret\n")
    change(runs[0], secret)
    found = merged(runs)
    assert found.problems == [f"{runs[0].name}: 1 files are links, devices or too large and were left out"]
    assert not [path for path in found.directory.path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_files_that_bundles_of_a_run_share_are_copied_once(runs: list[RunDirectory]) -> None:
    places = [runs[0].bundles_directory / name for name in ("a", "b")]
    for place in places:
        place.mkdir(parents=True)
    (places[0] / "kallsyms").write_text("symbols\n")
    os.link(places[0] / "kallsyms", places[1] / "kallsyms")
    found = merged(runs).directory.bundles_directory
    assert (found / "a/kallsyms").samefile(found / "b/kallsyms")
