"""Who else knows which cells ended: a run that is broken on purpose is not believed about that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name each cell that has ended, after the harness has had it, in the file that the suite names."""
    witness = os.environ.get("PINPOINT_FAULT_WITNESS")
    # What only a worker knows of is still under way.
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if witness and report.when == "teardown" and hasattr(report, "pinpoint_cell"):
        with Path(witness).open("a") as ended:
            ended.write(f"{report.pinpoint_cell['case']} {report.pinpoint_cell['vm']}\n")
