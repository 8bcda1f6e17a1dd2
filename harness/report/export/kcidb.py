"""A run as KCIDB I/O data, schema 5.3 (kcidb-io, `kcidb_io/schema/v05_03.py`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from harness.report.metrics_with_goals import Figure
from harness.report.pivot import LOST, CellSelectedToRun, Pivot
from harness.report.record import Cell
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

_STATUS = {
    Verdict.PASS: "PASS",
    Verdict.SKIP: "SKIP",
    # The kernel has a defect; the incident names the issue.
    Verdict.KNOWN_FAIL: "FAIL",
    Verdict.HARNESS_ERROR: "ERROR",
    Verdict.BOOT_FAIL: "ERROR",
}
_LONGEST = 1024


def kcidb(
    cells: Sequence[Cell], figures: Sequence[Figure], run: str, origin: str, missing: Sequence[CellSelectedToRun] = ()
) -> Mapping[str, Any]:
    """The run as one KCIDB I/O object.

    Each image is a build, each cell a test. A known-fail is FAIL with an incident of the defect's issue, a
    harness-error is ERROR, a cell that did not run (`missing`) is MISS. Figures of a VM are tests with a number as
    output; those of the whole run are in the checkout's `misc`, because a test belongs to one build. `origin` is the
    submitter's name, of letters, digits and underscores.
    """
    pivot = Pivot(cells, missing)
    began = _began(run)
    checkout = f"{origin}:{run}"
    builds, tests, issues, incidents = [], [], {}, []
    for vm in pivot.vms:
        row = [cell for cell in pivot.latest_cells if cell.vm == vm]
        known = next((cell for cell in row if cell.kernel_release), None)
        build = f"{origin}:{run}-{vm}"
        builds.append(
            {
                "id": build,
                "origin": origin,
                "checkout_id": checkout,
                "architecture": known.arch if known else "unknown",
                "config_name": vm,
                "status": "PASS" if known else "ERROR",
                "misc": {"kernel_release": known.kernel_release, "image_key": known.image_key} if known else {},
            }
        )
        for number, cell in enumerate(row):
            test = f"{build}-{number}"
            tests.append(_test(test, build, origin, cell, began))
            if cell.verdict is Verdict.KNOWN_FAIL:
                issue = f"{origin}:{hashlib.sha256(cell.reason.encode()).hexdigest()[:16]}"
                issues[issue] = _issue(issue, origin, cell)
                incidents.append(
                    {
                        "id": f"{test}-known",
                        "origin": origin,
                        "issue_id": issue,
                        "issue_version": 1,
                        "test_id": test,
                        "present": True,
                    }
                )
        lost = [each for each in pivot.missing if each.vm == vm]
        tests += [_missed(f"{build}-lost-{number}", build, origin, each, began) for number, each in enumerate(lost)]
        tests += [
            {
                "id": f"{build}-figure-{number}",
                "origin": origin,
                "build_id": build,
                "path": _path(f"figure.{figure.figure}"),
                "number": {"value": figure.value, **({"unit": figure.unit} if figure.unit else {})},
                "status": "PASS" if figure.holds else "FAIL",
                "start_time": began,
            }
            for number, figure in enumerate(each for each in figures if each.vm == vm)
        ]
    return {
        "version": {"major": 5, "minor": 3},
        "checkouts": [
            {
                "id": checkout,
                "origin": origin,
                "valid": True,
                "start_time": began,
                "misc": {"figures": {each.figure: each.value for each in figures if not each.vm}},
            }
        ],
        "builds": builds,
        "tests": tests,
        **({"issues": list(issues.values()), "incidents": incidents} if issues else {}),
    }


def _test(test: str, build: str, origin: str, cell: Cell, began: str) -> Mapping[str, Any]:
    return {
        "id": test,
        "origin": origin,
        "build_id": build,
        "path": _of_cell(cell),
        "comment": without_control_codes(cell.reason)[:_LONGEST] or cell.verdict.value,
        "status": _STATUS.get(cell.verdict, "FAIL"),
        "start_time": began,
        "duration": cell.seconds,
        "misc": {"verdict": cell.verdict.value, "accelerator": cell.accelerator},
    }


def _missed(test: str, build: str, origin: str, cell: CellSelectedToRun, began: str) -> Mapping[str, Any]:
    return {
        "id": test,
        "origin": origin,
        "build_id": build,
        "path": _of_cell(cell),
        "comment": LOST,
        "status": "MISS",
        "start_time": began,
    }


def _of_cell(cell: CellSelectedToRun) -> str:
    """The test path of a cell."""
    return _path(f"pinpoint.{cell.case}.mutant.{cell.mutant}" if cell.mutant else f"pinpoint.{cell.case}")


def _issue(issue: str, origin: str, cell: Cell) -> Mapping[str, Any]:
    return {
        "id": issue,
        "version": 1,
        "origin": origin,
        "comment": without_control_codes(cell.reason)[:_LONGEST],
        "culprit": {"code": True, "tool": False, "harness": False},
    }


def _path(name: str) -> str:
    """Return a dotted test path of letters, digits, `_`, `-` and dots (kcidb-io's pattern of `path`)."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._") or "unknown"


def _began(run: str) -> str:
    """Return the time in a run's name as RFC 3339, or the current time if the name has none."""
    try:
        began = datetime.strptime(run[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        began = datetime.now(UTC)
    return began.isoformat()
