"""Cell shards: the process contract, the division of a run, and the replay of reports. No guest boots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_matrix import CONFTEST, cells, run

from harness.core import paths
from harness.core.events import Bus, Event
from harness.matrix.cell_shards import division, shard_files
from harness.matrix.cell_shards.division import CellShard, TestDurations
from harness.matrix.cell_shards.report_replay import ReportReplay
from harness.report.run_dir import RunDirectory

pytest_plugins = ["pytester"]

ROWS = ("--vm", "arm64-debian", "--vm", "x86_64-debian", "-n", "2")
# Run in the process of a shard alone.
IN_SHARD = """
def pytest_configure(config):
    if hasattr(config, "workerinput"):
        {}
"""


@pytest.fixture
def matrix(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PINPOINT_RESULTS", str(pytester.path / "results"))
    monkeypatch.setenv("PINPOINT_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(paths.PROJECT))
    pytester.makeconftest(CONFTEST)
    return pytester


def verdicts(matrix: pytest.Pytester) -> list[tuple[object, object, object, object]]:
    return sorted((cell["case"], cell["vm"], cell["mutant"], cell["verdict"]) for cell in cells(matrix))  # type: ignore[type-var]


def described(case: ElementTree.Element) -> tuple[str | None, list[tuple[str, str | None, str | None]]]:
    return case.get("name"), [(child.tag, child.get("message"), child.text) for child in case]


class Replayed:
    """A replay into a session's hooks, and what they received."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.items = pytester.getitems("def test_a(): pass\ndef test_b(): pass")
        self.reports: list[pytest.TestReport] = []
        self.warnings: list[str] = []
        self.spent: list[object] = []
        self.events: list[Event] = []
        config = self.items[0].config
        config.pluginmanager.register(self)
        bus = Bus()
        bus.add_listener(self.events.append)
        directory = RunDirectory(pytester.path)
        shard = CellShard("", 0, self.items, 1.0)
        self.replay = ReportReplay(config, shard, "w1", pytester.path, directory, bus, self.spent.append)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)

    def pytest_warning_recorded(self, warning_message: Any) -> None:  # noqa: ANN401 - a hook's argument
        self.warnings.append(f"{warning_message.category.__name__}: {warning_message.message}")

    def send(self, name: str, when: str, outcome: str = "passed", longrepr: object = None) -> None:
        fields = {"nodeid": name, "location": ["f.py", 1, name], "keywords": {}, "outcome": outcome, "when": when}
        fields |= {"longrepr": longrepr, "$report_type": "TestReport", "sections": [["title", "text"]]}
        fields |= {"user_properties": [["name", 1]], "duration": 0.1, "start": 1.0, "stop": 1.1}
        self.replay.receive({"report": json.loads(json.dumps(fields))})

    def phases(self) -> list[tuple[str, str | None, str]]:
        return [(report.nodeid.partition("::")[2], report.when, report.outcome) for report in self.reports]


@pytest.fixture
def replayed(pytester: pytest.Pytester) -> Replayed:
    return Replayed(pytester)


def lose(replayed: Replayed) -> None:
    class Bundles:
        def write(self, *_: object) -> None:
            raise AssertionError("no cell was open")

    replayed.replay.lose_open_test("the process was killed", Bundles(), lambda _: {})  # type: ignore[arg-type]


def test_a_replayed_report_is_as_pytest_made_it(replayed: Replayed) -> None:
    name = replayed.items[0].nodeid
    replayed.replay.receive({"begin": name})
    replayed.send(name, "setup", "skipped", ["f.py", 3, "Skipped: not here"])
    replayed.send(name, "teardown")
    first, _ = replayed.reports
    # JSON has lists only; pytest's summary of skips and its JUnit file demand tuples.
    assert (first.longrepr, first.location) == (("f.py", 3, "Skipped: not here"), ("f.py", 1, name))
    assert (first.sections, first.user_properties) == ([("title", "text")], [("name", 1)])
    assert replayed.replay.items_not_begun == replayed.items[1:]


@pytest.mark.parametrize(
    ("phases", "lost"),
    [
        ([], [("setup", "failed"), ("teardown", "passed")]),
        ([("setup", "passed")], [("call", "failed"), ("teardown", "passed")]),
        ([("setup", "failed")], [("teardown", "failed")]),
        ([("setup", "passed"), ("call", "failed")], [("teardown", "failed")]),
    ],
)
def test_a_lost_test_fails_in_the_phase_that_ran(
    replayed: Replayed, phases: list[tuple[str, str]], lost: list[tuple[str, str]]
) -> None:
    name = replayed.items[0].nodeid
    replayed.replay.receive({"begin": name})
    for when, outcome in phases:
        replayed.send(name, when, outcome, "text" if outcome == "failed" else None)
    lose(replayed)
    assert replayed.phases() == [("test_a", *phase) for phase in (*phases, *lost)]
    assert replayed.replay.open_item is None
    lose(replayed)
    assert len(replayed.reports) == len(phases) + len(lost)


def test_a_test_ends_once_whatever_comes_after_it(replayed: Replayed) -> None:
    name = replayed.items[0].nodeid
    for _ in range(2):
        replayed.replay.receive({"begin": name})
        replayed.send(name, "setup")
        replayed.send(name, "teardown")
        replayed.replay.receive({"end": name})
    replayed.replay.receive({"begin": "of/another.py::test_c"})
    replayed.send("of/another.py::test_c", "setup")
    assert replayed.phases() == [("test_a", "setup", "passed"), ("test_a", "teardown", "passed")]


def test_events_times_and_warnings_are_passed_on(replayed: Replayed) -> None:
    event = {"vm": "parisc", "step": "boot", "kind": "progress", "detail": "half", "fraction": 0.5, "worker": "w1"}
    replayed.replay.receive({"event": event})
    replayed.replay.receive({"spent": {"parisc": {"body": 1.0}}})
    for category in ("DeprecationWarning", "PytestUnraisableExceptionWarning", "OddWarning"):
        warning = {"text": "old", "category": category, "filename": "f.py", "lineno": 1, "nodeid": "n"}
        replayed.replay.receive({"warning": warning})
    assert [(each.detail, each.fraction, each.worker) for each in replayed.events] == [("half", 0.5, "w1")]
    assert replayed.spent == [{"parisc": {"body": 1.0}}]
    # Those of the session itself are replayed to a plugin that comes later.
    assert [text for text in replayed.warnings if "old" in text] == [
        "DeprecationWarning: old",
        "PytestUnraisableExceptionWarning: old",
        "UserWarning: OddWarning: old",
    ]


def test_tests_are_divided_by_past_durations(pytester: pytest.Pytester) -> None:
    items = pytester.getitems("\n".join(f"def test_{number}(): pass" for number in range(100)))
    file = items[0].nodeid.partition("::")[0]
    assert [len(shard.items) for shard in division.divide(items, 1, 2, {})] == [50, 50]
    assert [len(shard.items) for shard in division.divide(items, 1, 2, {"": {file: 0.01}})] == [100]
    parts = division.divide(items, 1, 2, {"": {file: 1.0}})
    assert [(shard.name, len(shard.items), shard.seconds) for shard in parts] == [
        (f"tests.p{number}", 25, 25.0) for number in (1, 2, 3, 4)
    ]
    assert [item for shard in parts for item in shard.items] == items


def test_each_attempt_of_a_shard_has_a_name_of_its_own() -> None:
    named = [CellShard("parisc", part, [], 0.0, attempt).name for part in (0, 2) for attempt in (1, 2)]
    assert named == ["parisc", "parisc.r2", "parisc.p2", "parisc.p2r2"]


def test_durations_of_tests_are_means_by_file(replayed: Replayed) -> None:
    durations = TestDurations()
    for item in replayed.items:
        replayed.replay.receive({"begin": item.nodeid})
        for when in ("setup", "call", "teardown"):
            replayed.send(item.nodeid, when)
    for report in replayed.reports:
        durations.add_phase(report)
    assert durations.mean_by_file() == {replayed.items[0].nodeid.partition("::")[0]: 0.3}


def test_the_files_of_a_shard_go_into_the_run(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    made = shard_files.make_directory(run, "parisc")
    (made / "console" / "parisc.log").write_text("console\n")
    (made / "bundles" / "parisc" / "test_a").mkdir(parents=True)
    (made / "figures.jsonl").write_text('{"figure": 1}\n{"figu')
    run.figures_file.write_text('{"figure": 0}\n')
    (made / shard_files.OUTPUT).write_text("Traceback\nValueError: no\n\n")
    assert shard_files.last_words(made) == "ValueError: no"
    shard_files.take_files(run, made, keep_output=True)
    assert (run.path / "console" / "parisc.log").read_text() == "console\n"
    assert (run.bundles_directory / "parisc" / "test_a").is_dir()
    # The last line of a process that was killed can be incomplete.
    assert run.figures_file.read_text() == '{"figure": 0}\n{"figure": 1}\n'
    assert (made / shard_files.OUTPUT).exists()
    shard_files.take_files(run, made, keep_output=False)
    assert not (run.path / "shards").exists()


def test_an_order_that_is_none_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "harness", "shard"],
        input='{"vm": "parisc"}',
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pinpoint: standard input: is no order for a shard; use ./pinpoint run\n"


@pytest.mark.slow
def test_a_run_in_processes_reports_as_one_in_this_process_does(matrix: pytest.Pytester) -> None:
    case = """
import warnings

@pytest.mark.mutants("text-base")
def test_a(guest, mutant):
    if mutant:
        raise Missed("elsewhere")

def test_fails(guest):
    print("printed by the case")
    warnings.warn("old ways")
    raise Missed("elsewhere")

def test_known(guest): pytest.xfail("documented")

@pytest.mark.requires("optimized_kprobes")
def test_skipped(guest): pass
"""
    seen = []
    for processes in ("0", "2"):
        result = run(matrix, case, *ROWS[:-1], processes, "-rA")
        assert result.ret == 1
        latest = matrix.path / "results" / "latest"
        junit = ElementTree.parse(latest / "junit.xml").getroot().iter("testcase")
        figures = [json.loads(line) for line in (latest / "figures.jsonl").read_text().splitlines()]
        counts = sorted((each["figure"], each["vm"], each["value"]) for each in figures if each["unit"] != "s")
        bundles = sorted(str(path.relative_to(latest)) for path in (latest / "bundles").rglob("*") if path.is_file())
        seen.append((verdicts(matrix), sorted(map(described, junit)), counts, bundles))
        result.stdout.fnmatch_lines(["*printed by the case*"])
        result.stdout.fnmatch_lines(["*UserWarning: old ways*"])
        result.stdout.fnmatch_lines(["*2 failed, 5 passed, 1 skipped, 2 xfailed, 2 warnings*"])
        readme = next((latest / "bundles" / "arm64-debian").glob("*/README.md"))
        assert f"repro {readme.parent.resolve()}" in readme.read_text()
        assert not (latest / "shards").exists()
    assert seen[0] == seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("emptied", [True, False])
def test_a_run_reports_that_the_files_of_its_tests_were_removed(matrix: pytest.Pytester, emptied: bool) -> None:
    """As after `rm -rf` of pytest's directory in TMPDIR: only tests that run at that time fail."""
    case = f"""
import shutil

def test_a(tmp_path):
    if {emptied}:
        shutil.rmtree(tmp_path.parents[1])
    (tmp_path / "file").touch()

def test_b(tmp_path): pass
"""
    ended = run(matrix, case, "-n", "2")
    assert ended.ret == int(emptied)
    assert ("was emptied while tests used it" in ended.stderr.str()) == emptied


@pytest.mark.slow
def test_the_first_failure_ends_the_other_processes_too(matrix: pytest.Pytester) -> None:
    case = """
import time

def test_a(guest, vm):
    time.sleep(100 if vm == "x86_64-debian" else 0)
    assert False

def test_b(guest): pass
"""
    result = run(matrix, case, *ROWS, "-x")
    assert result.ret == 1
    assert verdicts(matrix) == [("test_a", "arm64-debian", "", "fail")]
    result.stdout.fnmatch_lines(["did not run  test_a on x86_64-debian*"])
    assert result.duration < 60


@pytest.mark.slow
def test_only_the_last_failures_run_again(matrix: pytest.Pytester) -> None:
    case = """
def test_a(guest, vm): assert vm == "arm64-debian"
def test_b(guest): pass
"""
    matrix.makepyfile(test_case=case)
    assert matrix.runpytest_subprocess(*ROWS).ret == 1
    assert matrix.runpytest_subprocess(*ROWS, "--lf").ret == 1
    assert verdicts(matrix) == [("test_a", "x86_64-debian", "", "fail")]


@pytest.mark.slow
def test_processes_that_die_before_their_first_test_are_given_up(matrix: pytest.Pytester) -> None:
    matrix.makeconftest(CONFTEST + IN_SHARD.format("import os, sys; sys.stderr.write('no room\\n'); os._exit(9)"))
    assert run(matrix, "def test_a(guest): pass\ndef test_b(guest): pass", *ROWS).ret == 3
    assert verdicts(matrix) == [
        (case, vm, "", "harness-error") for case in ("test_a", "test_b") for vm in ("arm64-debian", "x86_64-debian")
    ]
    assert {cell["reason"] for cell in cells(matrix)} == {
        "the process that ran it ended with status 9: no room; see the host's own log"
    }
    kept = (matrix.path / "results" / "latest" / "shards").rglob(shard_files.OUTPUT)
    assert {path.read_text() for path in kept} == {"no room\n"}


@pytest.mark.slow
def test_a_survived_mutant_counts_although_its_process_was_killed(matrix: pytest.Pytester) -> None:
    case = """
import os

@pytest.mark.mutants("text-base", "other-build")
def test_it(guest, mutant):
    if mutant == "other-build":
        os.kill(os.getpid(), 9)
"""
    assert run(matrix, case, "--vm", "arm64-debian", "-n", "1").ret == 3
    found = {cell["mutant"]: (cell["verdict"], cell["reason"]) for cell in cells(matrix)}
    assert found == {
        "text-base": ("fail", "mutant text-base was not caught by test_it"),
        "other-build": (
            "harness-error",
            "the process that ran it was killed by SIGKILL; see the host's own log",
        ),
        "": ("fail", "its mutants survived: text-base"),
    }
    assert len(cells(matrix)) == 3


@pytest.mark.slow
def test_a_failed_build_is_reported_by_each_cell_of_its_row(matrix: pytest.Pytester) -> None:
    builds = """
real = fleet.Fleet.start_building
def build(recipe, build_context):
    if recipe.name == "arm64-debian":
        raise HostError("no compiler", mend="get one")
    return recipe
fleet.prepare, fleet.with_own_modules = build, lambda recipe, context: recipe
fleet.Fleet._prepare_and_start = lambda self, name: self._prepare(name) and Guest()
"""
    conftest = CONFTEST.replace("fleet.Fleet.start_building = lambda self, names, compared: None\n", "")
    matrix.makeconftest(conftest + builds)
    assert run(matrix, "def test_a(guest): pass", *ROWS).ret == 3
    assert verdicts(matrix) == [
        ("test_a", "arm64-debian", "", "harness-error"),
        ("test_a", "x86_64-debian", "", "pass"),
    ]
    assert {cell["reason"] for cell in cells(matrix)} == {"no compiler; get one", ""}


@pytest.mark.slow
def test_options_that_need_one_process_are_refused(matrix: pytest.Pytester) -> None:
    result = run(matrix, "def test_a(guest): pass", *ROWS, "--pdb")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --pdb, --trace and --at-failure need one process: use -n 0"])
    result = run(matrix, "def test_a(guest): pass", "-n", "many")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'many' is no number from 0 to 1000, and not auto"])
