"""Exports and schemas, validated by the peers' own validators: kunit.py, KCIDB's schema, junitparser, jsonschema."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import sample_runs
import validators

from harness.plugin import RUN
from harness.report import lost_cells, schemas
from harness.report.export import junit, kcidb, ktap, markdown
from harness.report.metrics_with_goals import Figures
from harness.report.pivot import Pivot
from harness.report.record import Cell, Results
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return sample_runs.small(tmp_path_factory.mktemp("formats"))


@pytest.fixture
def cells(run: RunDirectory) -> list[Cell]:
    return Results(run).read_cells()


@pytest.mark.parametrize("name", [*schemas.MODELS, *schemas.PRINTED])
def test_the_published_schema_is_the_models(name: str) -> None:
    """`python -m harness.report.schemas` writes them again."""
    assert (schemas.PUBLISHED / f"{name}.schema.json").read_text() == schemas.schema_text_by_name(name)


def test_every_published_schema_has_a_model() -> None:
    assert {path.name.partition(".")[0] for path in schemas.PUBLISHED.iterdir()} == {*schemas.MODELS, *schemas.PRINTED}


def test_a_run_is_valid_by_the_published_schemas(run: RunDirectory) -> None:
    seen = validators.demand_schemas(run)
    assert set(seen) == set(schemas.MODELS)
    assert seen["results"] == len(Results(run).read_cells())


@pytest.mark.parametrize("change", [{"verdict": "fine"}, {"schema": 1}, {"surplus": 1}, {"seconds": "long"}])
def test_a_line_that_is_no_cell_is_refused(run: RunDirectory, tmp_path: Path, change: dict[str, object]) -> None:
    other = RunDirectory(tmp_path / run.name)
    shutil.copytree(run.path, other.path)
    first, *rest = other.results_file.read_text().splitlines()
    other.results_file.write_text("\n".join([json.dumps({**json.loads(first), **change}), *rest]) + "\n")
    with pytest.raises(AssertionError, match=r"results of"):
        validators.demand_schemas(other)


def _expected(run: RunDirectory, cells: list[Cell]) -> Counter[str]:
    """What kunit.py must count."""
    latest = Pivot(cells).latest_cells
    skipped = sum(cell.verdict is Verdict.SKIP for cell in latest)
    failed = sum(not cell.verdict.acceptable for cell in latest) + len(lost_cells.read_lost_cells(run))
    return +Counter(
        passed=len(latest) + len(lost_cells.read_lost_cells(run)) - skipped - failed, failed=failed, skipped=skipped
    )


def test_kunit_counts_what_the_run_has(run: RunDirectory, cells: list[Cell], tmp_path: Path) -> None:
    (tmp_path / "ktap").write_text(ktap.ktap(cells, lost_cells.read_lost_cells(run)))
    assert validators.kunit(tmp_path / "ktap") == (1, _expected(run, cells))


def test_kunit_counts_what_is_streamed_while_vms_run_in_parallel(
    run: RunDirectory, cells: list[Cell], tmp_path: Path
) -> None:
    out = io.StringIO()
    stream = ktap.KtapCaseStream(out)
    stream.write_plan([*cells, *lost_cells.read_lost_cells(run)])
    seen = []
    # The cells of one VM come in order; those of several are mixed.
    for cell in sorted(cells, key=lambda cell: (cell.case, not cell.mutant, cell.vm)):
        stream.add_cell_to_test(cell)
        seen.append(out.getvalue().count("\nok ") + out.getvalue().count("\nnot ok "))
    assert seen == sorted(seen)
    assert 0 < seen[len(seen) // 2] < seen[-1]
    stream.write_incomplete_tests()
    (tmp_path / "ktap").write_text(out.getvalue())
    assert validators.kunit(tmp_path / "ktap") == (1, _expected(run, cells))


def test_kunit_holds_for_a_run_that_held(cells: list[Cell], tmp_path: Path) -> None:
    (tmp_path / "ktap").write_text(
        ktap.ktap([cell for cell in cells if cell.vm == "x86_64-debian" and cell.verdict.acceptable])
    )
    status, counts = validators.kunit(tmp_path / "ktap")
    assert (status, set(counts)) == (0, {"passed"})


def test_kcidb_takes_it_and_knows_what_did_not_run(run: RunDirectory, cells: list[Cell]) -> None:
    data = kcidb.kcidb(cells, Figures(run).read(), run.name, "lab", lost_cells.read_lost_cells(run))
    validators.kcidb(json.dumps(data))
    by_status = Counter(test["status"] for test in data["tests"] if ".figure." not in f".{test['path']}")
    latest = Counter(cell.verdict for cell in Pivot(cells).latest_cells)
    assert by_status["MISS"] == len(lost_cells.read_lost_cells(run)) == 1
    assert by_status["ERROR"] == latest[Verdict.HARNESS_ERROR] + latest[Verdict.BOOT_FAIL]
    assert by_status["SKIP"] == latest[Verdict.SKIP]
    known = [test["id"] for test in data["tests"] if test.get("misc", {}).get("verdict") == "known-fail"]
    assert [each["test_id"] for each in data["incidents"]] == known != []
    assert {test["number"]["value"] for test in data["tests"] if "number" in test} >= {4711.0}
    assert data["checkouts"][0]["misc"]["figures"] == {"cells.lost": 1, "run.wall_s": 120}


def test_kcidb_refuses_what_is_wrong(run: RunDirectory, cells: list[Cell]) -> None:
    data = json.loads(json.dumps(kcidb.kcidb(cells, [], run.name, "lab")))
    data["tests"][0]["status"] = "FINE"
    with pytest.raises(Exception, match="FINE"):
        validators.kcidb(json.dumps(data))


def test_junit_is_read_by_junitparser_and_keeps_gitlabs_rules(run: RunDirectory, cells: list[Cell]) -> None:
    text = junit.junit(cells, run.name, lost_cells.read_lost_cells(run))
    found = validators.junit(text)
    assert sum(found.values()) == len(Pivot(cells).latest_cells) + 1
    assert found["Error"] == 1 + sum(cell.verdict in (Verdict.HARNESS_ERROR, Verdict.BOOT_FAIL) for cell in cells)
    assert 'file="cases/test_sites.py" line="' in text


def test_markdown_lists_what_did_not_run(run: RunDirectory, cells: list[Cell]) -> None:
    text = markdown.markdown(cells, run.name, lost_cells.read_lost_cells(run))
    assert "### 1 did not run" in text
    assert "- `test_never` on `parisc`" in text


def test_exports_of_this_runs_own_results_are_valid(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whatever cells have ended in this run so far: `./pinpoint test` runs the matrix together with these tests."""
    matrix = request.config.stash[RUN]
    if not getattr(matrix, "has_directory", True):
        matrix = None
    directory = getattr(matrix, "run_directory", matrix.directory) if matrix else sample_runs.small(tmp_path)
    # Copied first: the run goes on.
    copy = RunDirectory(tmp_path / "copy" / directory.name)
    copy.path.mkdir(parents=True)
    for file in (directory.results_file, directory.figures_file, directory.trials_file):
        if file.exists():
            whole = file.read_bytes()
            (copy.path / file.name).write_bytes(whole[: whole.rfind(b"\n") + 1])
    validators.demand_schemas(copy)
    cells = Results(copy).read_cells()
    if cells:
        (tmp_path / "ktap").write_text(ktap.ktap(cells))
        assert validators.kunit(tmp_path / "ktap")[1] == _expected(copy, cells)
        validators.junit(junit.junit(cells, copy.name))
        validators.kcidb(json.dumps(kcidb.kcidb(cells, Figures(copy).read(), copy.name, "lab")))
