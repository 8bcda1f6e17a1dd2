"""An independent record of the cells that ended: the results of a run that is broken on purpose are not trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Observe the controller alone: a report that only the process of a shard has seen is not final."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Witness())


class _Witness:
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the name of each cell that has ended to the suite's file, after the harness has its report."""
        witness = os.environ.get("PINPOINT_FAULT_WITNESS")
        if witness and report.when == "teardown" and hasattr(report, "pinpoint_cell"):
            with Path(witness).open("a") as ended:
                ended.write(f"{report.pinpoint_cell['case']} {report.pinpoint_cell['vm']}\n")
