"""What pytest tells of a cell, without what a guest could have put there to speak to a terminal or a reader of XML."""

from __future__ import annotations

import pytest

from harness.verdict.printk import plain


def disarm(report: pytest.TestReport) -> None:
    """Strip control codes of a report's texts; one without any keeps its form."""
    report.sections = [(title, plain(text)) for title, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, plain(reason))
    elif report.longrepr is not None and plain(report.longreprtext) != report.longreprtext:
        report.longrepr = plain(report.longreprtext)
    if hasattr(report, "wasxfail"):
        report.wasxfail = plain(report.wasxfail)
