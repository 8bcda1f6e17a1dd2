"""An independent record of the cells that ended: the results of a run that is broken on purpose are not trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the name of each cell that has ended to the suite's file, after the harness has processed the report."""
    witness = os.environ.get("PINPOINT_FAULT_WITNESS")
    # A report that only a worker has seen is not final.
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if witness and report.when == "teardown" and hasattr(report, "pinpoint_cell"):
        with Path(witness).open("a") as ended:
            ended.write(f"{report.pinpoint_cell['case']} {report.pinpoint_cell['vm']}\n")
