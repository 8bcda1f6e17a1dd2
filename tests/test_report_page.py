"""What report.html is made of: merged runs, lost cells, excerpts, claims, news, the timeline, a trial's example."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sample_runs
from test_relocation_by_hand import SLIDE, kernel, layout

from harness import cli
from harness.core.events import Bus, Event, EventKind
from harness.landing.checks import trial_example
from harness.landing.checks.classify_address import AddressClassifier, AddressKind
from harness.landing.checks.relocation_by_hand_trial import RelocatedFunction, Trial
from harness.landing.site import Site
from harness.landing.systemtap_relocation_by_hand import RelocationByHandCalculator
from harness.report import history, timeline
from harness.report.html import write_merged_report, write_report_of_run
from harness.report.lost_cells import LostCell
from harness.report.merged_records_for_report import Material
from harness.report.metrics_with_goals import Figures
from harness.report.page.case_docstrings import read_claims
from harness.report.page.excerpts import ExcerptReader
from harness.report.page.lanes import worker_lanes
from harness.report.page.news import compare_with_earlier_runs
from harness.report.pivot import Pivot
from harness.report.record import Cell, Results
from harness.report.relocation_by_hand_drawing_records import FunctionInTwoBuilds
from harness.report.rerun_command_of_cell import replay_command
from harness.report.run_dir import RunDirectory
from harness.report.timeline import Timeline
from harness.verdict.cell_verdict_enum import Verdict


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return sample_runs.small(tmp_path / "results")


@pytest.fixture
def earlier(run: RunDirectory) -> RunDirectory:
    return RunDirectory(run.path.parent / "20261127-120000-aaaa")


def test_of_a_cell_in_two_runs_the_later_counts_whatever_their_order(run: RunDirectory, earlier: RunDirectory) -> None:
    material = Material.read_runs([run, earlier], run.path.parent)
    latest = {(cell.case, cell.vm, cell.mutant): cell.verdict for cell in Pivot(material.cells).latest_cells}
    assert latest["test_module_function[leaf]", "parisc", ""] is Verdict.OOPS
    assert latest["test_gone", "parisc", ""] is Verdict.PASS
    assert {each.case for each in material.missing_cells} == {"test_never"}
    assert [figure.value for figure in material.figures if figure.figure == "run.wall_s"] == [120]
    assert all(span.worker.endswith(run.name) for span in material.timeline_spans)
    bundles = [cell.bundle for cell in material.cells if cell.bundle]
    assert bundles
    assert all((material.report_directory / bundle / "bundle.json").is_file() for bundle in bundles)


def test_the_command_merges_runs_into_one_page(
    run: RunDirectory, earlier: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(earlier.path), str(run.path)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == run.path.parent / "report-merged.html"
    assert f"{earlier.name} + {run.name}" in page.read_text()
    assert cli.main(["report", str(run.path), "--output", str(run.path / "other.html")]) == 0
    assert (run.path / "other.html").is_file()
    capsys.readouterr()
    assert cli.main(["report", str(run.path / "nowhere")]) == 2
    assert "nowhere: holds no results" in capsys.readouterr().err


def test_cells_that_did_not_run_are_in_a_report_written_later(run: RunDirectory) -> None:
    assert (
        "./pinpoint run --vm parisc -k &#39;test_never[parisc]&#39;"
        in write_merged_report([run], run.html_report_file).read_text()
    )


def test_a_run_that_was_killed_and_lines_of_another_schema_are_named(run: RunDirectory, earlier: RunDirectory) -> None:
    first, *rest = earlier.results_file.read_text().splitlines()
    earlier.results_file.write_text("\n".join([json.dumps({**json.loads(first), "schema": 1}), *rest]) + "\n")
    earlier.figures_file.unlink()
    page = write_merged_report([earlier], earlier.html_report_file).read_text()
    assert "did not end" in page
    assert "1 line of the results of run 20261127-120000-aaaa cannot be read" in page
    assert "every cell held" not in page
    del run


def test_a_cell_without_a_bundle_is_replayed_by_its_names(run: RunDirectory) -> None:
    plain = sample_runs.cell("test_x[leaf-MOD:SYM]", "parisc", mutant="other-build")
    assert replay_command(plain, run.path) == (
        "./pinpoint run --vm parisc -k 'test_x and leaf-MOD:SYM and mutant:other-build' cases/test_sites.py"
    )
    odd = sample_runs.cell("test_x[a b]", "parisc", file="")
    assert replay_command(odd, run.path) == "./pinpoint run --vm parisc -k test_x"


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../cases/test_sites.py/../../x", "tests/sample_runs.py", "cases/none.py", ""]
)
def test_claims_come_from_cases_only(file: str) -> None:
    assert (read_claims(file).file_claim, read_claims(file).claim_of_case("small")) == ("", "")


def test_a_claim_is_a_docstrings_first_line() -> None:
    known = read_claims("cases/test_clean_up.py")
    assert known.file_claim
    assert "\n" not in known.file_claim
    assert known.line_of_case("test_unload_leaves_nothing") > 1
    assert known.claim_of_case("test_unload_leaves_nothing[x]")


def _failed(run: RunDirectory) -> Cell:
    return next(cell for cell in Results(run).read_cells() if cell.bundle)


def test_an_excerpt_follows_no_link_and_names_what_it_cannot_read(run: RunDirectory, tmp_path: Path) -> None:
    cell = _failed(run)
    assert "target.c:12" in ExcerptReader(run.path).read_failure_and_console(cell)["failure"]
    (tmp_path / "secret").write_text("SECRET")
    failure = run.path / cell.bundle / "failure.txt"
    failure.unlink()
    failure.symlink_to(tmp_path / "secret")
    found = ExcerptReader(run.path).read_failure_and_console(cell)
    assert "SECRET" not in str(found)
    assert "cannot be read" in found["failure"]
    gone = cell.model_copy(update={"bundle": "bundles/gone"})
    assert "cannot be read: No such file" in ExcerptReader(run.path).read_failure_and_console(gone)["failure"]


def test_an_excerpt_keeps_the_end_of_the_console_and_the_begin_of_the_failure(run: RunDirectory) -> None:
    cell = _failed(run)
    lines = [f"line {number}" for number in range(5000)]
    (run.path / cell.bundle / "console.log").write_text("\n".join(lines))
    (run.path / cell.bundle / "failure.txt").write_text("\n".join(lines))
    found = ExcerptReader(run.path).read_failure_and_console(cell)
    assert found["console"].startswith("...\nline ")
    assert found["console"].endswith("line 4999")
    assert found["failure"].startswith("line 0\n")
    assert found["failure"].endswith("\n...")


def test_an_excerpt_leaves_out_the_fences_of_the_harness_alone(run: RunDirectory) -> None:
    cell = _failed(run)
    fence = "pinpoint: fence 0123456789abcdef"
    lines = [f"[   12.123456] {fence}", f"BUG: {fence}", fence, "[   12.123457] last"]
    (run.path / cell.bundle / "console.log").write_text("\n".join(lines))
    assert ExcerptReader(run.path).read_failure_and_console(cell)["console"] == f"BUG: {fence}\n[   12.123457] last"


def test_excerpts_end_where_the_page_would_grow_too_large(run: RunDirectory) -> None:
    cell = _failed(run)
    (run.path / cell.bundle / "failure.txt").write_text("line\n" * 2000)
    (run.path / cell.bundle / "console.log").write_text("line\n" * 2000)
    reader = ExcerptReader(run.path)
    found = [reader.read_failure_and_console(cell) for _ in range(100)]
    assert found[50]
    assert not found[-1]
    assert sum(len(text) for texts in found for text in texts.values()) < 520_000


def test_a_reason_of_kilobytes_is_cut_in_the_news_and_whole_among_the_failures(run: RunDirectory) -> None:
    Results(run).write(sample_runs.cell("test_gone", "parisc", Verdict.FAIL, reason="x" * 5000))
    page = write_merged_report([run], run.html_report_file).read_text()
    assert page.count("x" * 5000) == 2  # among the failures, and in what the square opens to
    assert f"{'x' * 200} ...</li>" in page


def test_cells_that_did_not_run_are_one_entry_for_each_vm(run: RunDirectory) -> None:
    for vm, count in (("parisc", 11), ("x86_64-debian", 1)):
        missing = [LostCell(file="cases/test_sites.py", case=f"test_{each}", vm=vm, mutant="") for each in range(count)]
        with run.lost_cells_file.open("a") as stream:
            stream.writelines(f"{each.model_dump_json()}\n" for each in missing)
    page = write_merged_report([run], run.html_report_file).read_text()
    assert re.findall(r"</span> (\d+ cells? on <b>\S+</b>) did not run.</p>\s*<details( open)?>", page) == [
        ("12 cells on <b>parisc</b>", ""),
        ("1 cell on <b>x86_64-debian</b>", " open"),
    ]


def test_news_are_since_the_last_run_of_each_vm(run: RunDirectory, earlier: RunDirectory) -> None:
    between = RunDirectory(run.path.parent / "20261127-130000-abcd")
    between.path.mkdir()
    Results(between).write(sample_runs.cell("test_gone", "x86_64-debian"))
    found = compare_with_earlier_runs(run, Results(run).read_cells())
    assert found.compared_run_by_vm == {"parisc": earlier.name, "x86_64-debian": between.name}
    assert found.worse
    # The last run of that VM had this case alone.
    assert "test_kernel_function[unexported] on x86_64-debian: fail: why it is fail" in found.sections["new failures"]


@pytest.mark.parametrize("damage", ["missing", "another version", "no database"])
def test_the_history_is_rebuilt(run: RunDirectory, damage: str) -> None:
    root = run.path.parent
    before = history.read_history(root)
    path = root / "history.sqlite"
    if damage == "another version":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 1")
            database.execute("DELETE FROM cells")
        database.close()
    else:
        path.unlink()
        if damage == "no database":
            path.write_text("no database at all" * 100)
    assert history.read_history(root) == before != []
    assert history.past_values_by_figure(root, run.name, 5)["run.wall_s", ""] == [90, 120]
    Figures(run).add("run.wall_s", 130, "s")
    assert history.past_values_by_figure(root, run.name, 5)["run.wall_s", ""] == [90, 120, 130]


def test_a_timeline_has_steps_of_all_processes_and_cells(run: RunDirectory) -> None:
    bus = Bus()
    made = Timeline(bus, time.monotonic() - 10)
    with bus.step("parisc", "kernel") as step:
        step.set_final_detail("412 objects")
    bus.publish(Event("parisc", "thaw", EventKind.FINISHED, "in 1 s", seconds=1.0, worker="w2"))
    bus.record_seconds("parisc", "body", 5.0)
    now = time.time()
    made.begin_cell("node", now)
    made.end_cell("node", now + 2, sample_runs.cell("test_x", "parisc", Verdict.OOPS, mutant="other-build"), "w2")
    made.write_spans(run)
    spans = timeline.read_spans(run)
    assert [(span.worker, span.kind) for span in spans] == [("w2", "thaw"), ("main", "kernel"), ("w2", "cell")]
    assert (spans[2].name, spans[2].verdict) == ("test_x mutant other-build", "oops")
    assert spans[2].began == pytest.approx(10, abs=2)
    assert spans[2].seconds == pytest.approx(2, abs=0.01)
    drawn = worker_lanes(spans)
    assert drawn is not None
    assert [(lane.worker, set(lane.paths)) for lane in drawn.lanes] == [
        ("main", {"build"}),
        ("w2", {"thaw", "failed"}),
    ]
    assert worker_lanes([]) is None


def _trial(by_hand: RelocationByHandCalculator, here: SimpleNamespace) -> Trial:
    places = AddressClassifier(here)  # type: ignore[arg-type]
    symbols = {symbol.name: symbol for symbol in here.kernel.symbols}
    here.elf_and_symbol = lambda site: (here.kernel, symbols[site.symbol])
    aims = []
    for name in "abc":
        address, truth = by_hand.address(Site(name)), symbols[name].address + SLIDE
        kind = AddressKind.INSTRUCTION if address == truth else places.classify(address)
        aims.append(RelocatedFunction(Site(name), address, truth, kind))
    return Trial("other-order", "its-sibling", here, by_hand, places, aims)  # type: ignore[arg-type]


def test_the_example_of_a_trial_is_a_miss_with_the_bytes_of_both_places() -> None:
    here = layout(kernel("abc"))
    trial = _trial(RelocationByHandCalculator(here, vmlinux=kernel("cab")), here)  # type: ignore[arg-type]
    aim = trial_example.select_example_function(trial)
    assert aim is not None
    # Each is put on a neighbor; the closest comes first.
    assert (aim.site.symbol, aim.computed_address - aim.true_address, aim.kind_at_address) == (
        "a",
        16,
        AddressKind.INSTRUCTION,
    )
    found = trial_example.read_bytes_around_address(trial.classifier, aim.computed_address)
    assert found is not None
    assert (found.address + found.marked_index, found.label) == (aim.computed_address, "b+0x0")
    assert found.address_kinds[found.marked_index] is AddressKind.INSTRUCTION
    assert found.code[found.marked_index] == 0x90
    assert len(found.code) == len(found.address_kinds) == 32
    first = trial_example.read_bytes_around_address(trial.classifier, 0x1000 + SLIDE)
    assert first is not None
    # Nothing is before the first function.
    assert (first.marked_index, len(first.code)) == (0, 24)
    assert trial_example.read_bytes_around_address(trial.classifier, 0x900) is None
    moved = [FunctionInTwoBuilds(*each) for each in trial_example.sample_distances_from_base(trial)]
    assert [(each.name, each.made_for, each.here) for each in moved] == [("a", 16, 0), ("b", 32, 16), ("c", 0, 32)]


def test_a_trial_without_misses_has_a_function_that_lands_as_its_example() -> None:
    here = layout(kernel("abc"))
    aim = trial_example.select_example_function(_trial(RelocationByHandCalculator(here), here))
    assert aim is not None
    assert aim.lands


def test_the_report_of_a_full_disk_leaves_the_old_one(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_report_of_run(run).read_text()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_merged_report([run], run.html_report_file)
    assert run.html_report_file.read_text() == old
