"""The report for people, one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.core.errors import PinpointError
from harness.core.files import write_text
from harness.report import history, lost_cells, relocation_by_hand_table
from harness.report.merged_records_for_report import Material
from harness.report.page import heat_map, lanes, metric_trends, relocation_by_hand_drawings
from harness.report.page.details import details_json
from harness.report.page.excerpts import ExcerptReader
from harness.report.page.news import compare_with_earlier_runs, limit_lines
from harness.report.pivot import CellSelectedToRun, Pivot, format_verdict_counts
from harness.report.progress_state import format_duration
from harness.report.record import Cell
from harness.report.rerun_command_of_cell import replay_command
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

_PAGE = Path(__file__).parent / "page"
_TEMPLATE = "report.html.j2"


def write_report_of_run(directory: RunDirectory, missing: Iterable[CellSelectedToRun] = ()) -> Path:
    """Write `report.html` from a run's records, and return its path.

    `missing` are the cells that were asked for and have no verdict; they are kept for reports that are written later.
    Everything in it that a guest could have written is escaped and stripped of control codes.
    """
    lost_cells.write_lost_cells(directory, missing)
    # The run that calls this has ended, whatever it has measured.
    material = replace(Material.read_runs([directory], directory.path), unended_runs=())
    write_text(directory.html_report_file, render(material))
    return directory.html_report_file


def write_merged_report(runs: Sequence[RunDirectory], into: Path) -> Path:
    """Write the report of one run, or of several merged, to the file `into`, and return its path."""
    write_text(into, render(Material.read_runs(runs, into.parent)))
    return into


def render(material: Material) -> str:
    """The page as text."""
    pivot = Pivot(material.cells, material.missing_cells)
    script = (_PAGE / "report.js").read_text()
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    return environment.get_template(_TEMPLATE).render(
        name=material.name,
        heading=_heading(pivot, material),
        pivot=pivot,
        unended=material.unended_runs,
        unreadable=material.unreadable_line_counts,
        news=compare_with_earlier_runs(material.newest_run, pivot.latest_cells),
        shown=limit_lines,
        groups=heat_map.case_file_groups(pivot),
        courses=metric_trends.figure_trends(material.figures, _past(material)),
        bars=relocation_by_hand_drawings.bars_by_vm(material.trials),
        trials=material.trials,
        trial_headings=relocation_by_hand_table.HEADINGS,
        trial_names=relocation_by_hand_table.NAME_COLUMNS,
        shares=relocation_by_hand_drawings.SHARES,
        strips=relocation_by_hand_drawings.byte_strips,
        first_miss=relocation_by_hand_drawings.first_bar_with_miss,
        layout=relocation_by_hand_drawings.layout_of_two_builds,
        lanes=lanes.worker_lanes(material.timeline_spans),
        about={vm: _about(vm, pivot) for vm in pivot.vms},
        consoles=material.console_logs,
        all_verdicts=list(Verdict),
        seconds=format_duration(sum(cell.seconds for cell in material.cells)),
        anchor=_anchor,
        clock=format_duration,
        tally=format_verdict_counts,
        replay=lambda cell: replay_command(cell, material.report_directory),
        details=Markup(
            details_json(
                pivot,
                lambda cell: replay_command(cell, material.report_directory),
                ExcerptReader(material.report_directory),
            )
        ),
        style=Markup((_PAGE / "report.css").read_text()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _heading(pivot: Pivot, material: Material) -> str:
    """What the page is headed by: the worst verdict of the run."""
    if not pivot.cells and not pivot.missing:
        return "no cell ran"
    if pivot.failure_groups():
        return "cells failed"
    if pivot.missing:
        return "cells did not run"
    return (
        "the run did not end"
        if material.unended_runs
        else "cells are missing"
        if material.unreadable_line_counts
        else "every cell held"
    )


def _past(material: Material) -> Mapping[tuple[str, str], Sequence[float]]:
    """The figures of the kept runs next to this one; empty where the history cannot be read."""
    try:
        return history.past_values_by_figure(
            material.newest_run.path.parent, material.newest_run.name, metric_trends.RUNS
        )
    except PinpointError:
        return {}


def _safe(value: Any) -> Any:  # noqa: ANN401 - jinja2 passes the value of any expression
    """Strip control codes from text; the template's own Markup stays as it is."""
    return without_control_codes(value) if type(value) is str else value


def _about(vm: str, pivot: Pivot) -> Mapping[str, str]:
    """The facts about a VM, from the last of its cells that had a guest."""
    cell: Cell | None = next((each for each in reversed(pivot.cells) if each.vm == vm and each.kernel_release), None)
    if cell is None:
        return {}
    return {
        "kernel": cell.kernel_release,
        "architecture": cell.arch,
        "accelerator": cell.accelerator,
        "qemu": cell.qemu,
        "image": cell.image_key,
        "traits": ", ".join(name for name, has in cell.traits.items() if has),
    }


def _anchor(*parts: str) -> str:
    """Return the id of a place on the page, made of letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parts)).strip("-")
