"""The report for people, one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.core.files import write_text
from harness.report import base_offset_table, bundle
from harness.report.measurements import Figures
from harness.report.pivot import Pivot, SelectedCell, format_verdict_counts
from harness.report.progress_state import format_duration
from harness.report.record import Results
from harness.report.run_dir import RunDirectory
from harness.verdict.printk import without_control_codes

_HERE = Path(__file__).parent
_TEMPLATE = "report.html.j2"


def write_html(directory: RunDirectory, missing: Iterable[SelectedCell] = ()) -> Path:
    """Write `report.html` from the run's results and figures, and return its path.

    `missing` are the selected cells without a verdict. Text that a guest could have written is escaped, and its control
    codes are removed.
    """
    cells = Results(directory).read()
    pivot, figures = Pivot(cells, missing), Figures(directory)
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    page = environment.get_template(_TEMPLATE).render(
        name=directory.name,
        pivot=pivot,
        figures=figures.read(),
        trials=base_offset_table.Trials(directory, figures).read(),
        trial_headings=base_offset_table.HEADINGS,
        trial_names=base_offset_table.NAMES,
        about={vm: _about(vm, pivot) for vm in pivot.vms},
        consoles={vm: [log.name for log in directory.consoles(vm)] for vm in pivot.vms},
        seconds=format_duration(sum(cell.seconds for cell in cells)),
        anchor=_anchor,
        clock=format_duration,
        tally=format_verdict_counts,
        replay=lambda left: bundle.command(directory.path / left),
    )
    write_text(directory.html, page)
    return directory.html


def _safe(value: Any) -> Any:  # noqa: ANN401 - jinja2 passes the value of any expression
    """Strip control codes from text; the template's own Markup stays as it is."""
    return without_control_codes(value) if type(value) is str else value


def _about(vm: str, pivot: Pivot) -> Mapping[str, str]:
    """Return the facts about a VM, from the first of its cells that had a guest."""
    for cell in pivot.cells:
        if cell.vm == vm and cell.kernel_release:
            traits = ", ".join(name for name, has in cell.traits.items() if has)
            return {
                "kernel": cell.kernel_release,
                "architecture": cell.arch,
                "accelerator": cell.accelerator,
                "image": cell.image_key,
                "traits": traits,
            }
    return {}


def _anchor(*parts: str) -> str:
    """Return the id of a place on the page, made of letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(parts)).strip("-")
