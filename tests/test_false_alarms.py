"""At the end of a run the logs of passed rows are read again to count false alarms and missed complaints."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_logs import HEALTHY, SLUB_WARNING, X86_OOPS, printed

from harness.images.vm_recipe import BootNoise, Recipe, select
from harness.matrix.exit_status_and_counts import record_false_complaint_figures
from harness.report.metrics_with_goals import Figures
from harness.report.record import Cell
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict

NOISE = BootNoise(place="mm/slub.c:5134", why="a test")


def cell(verdict: Verdict) -> Cell:
    return Cell(
        file="cases/test_x.py",
        case="test_it",
        vm="parisc",
        verdict=verdict,
        reason="",
        seconds=1.0,
        kernel_release="6.1",
        arch="parisc",
        accelerator="tcg",
        traits={},
        image_key="",
        witnesses=[],
        mutant="",
        bundle="",
    )


def test_what_a_case_had_its_own_guests_do_is_no_alarm(tmp_path: Path) -> None:
    (tmp_path / "console").mkdir()
    for name in ("parisc.p1.log", "parisc.p1-fresh-1.log", "parisc-fresh-2.log", "parisc-fsections.log"):
        (tmp_path / "console" / name).write_text(HEALTHY)
    assert [log.name for log in RunDirectory(tmp_path).console_logs_of_vm("parisc")] == ["parisc.p1.log"]


@pytest.mark.parametrize(
    ("log", "verdict", "alarms"),
    [
        (HEALTHY, Verdict.PASS, 0),
        (HEALTHY + printed(SLUB_WARNING, start=30.0), Verdict.PASS, 0),
        (HEALTHY + printed(X86_OOPS, start=30.0), Verdict.PASS, 1),
        (HEALTHY + printed(X86_OOPS, start=30.0), Verdict.OOPS, 0),
    ],
)
def test_false_alarms_of_a_run(tmp_path: Path, log: str, verdict: Verdict, alarms: int) -> None:
    directory = RunDirectory(tmp_path)
    (tmp_path / "console").mkdir()
    (tmp_path / "console" / "parisc.log").write_text(log)
    recipes: dict[str, Recipe] = {"parisc": select(["parisc"])[0].model_copy(update={"boot_noise": (NOISE,)})}
    record_false_complaint_figures(Figures(directory), directory, recipes, [cell(Verdict.PASS), cell(verdict)])
    (figure,) = Figures(directory).read()
    assert (figure.figure, figure.value, figure.holds) == ("oops.false_alarms", alarms, alarms == 0)
