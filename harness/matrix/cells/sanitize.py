"""Strips control characters from pytest reports, so that guest output cannot control a terminal or an XML parser."""

from __future__ import annotations

import pytest

from harness.verdict.printk import plain


def disarm(report: pytest.TestReport) -> None:
    """Strip control codes from a report's texts; a text without control codes stays as it is."""
    report.sections = [(title, plain(text)) for title, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, plain(reason))
    elif report.longrepr is not None and plain(report.longreprtext) != report.longreprtext:
        report.longrepr = plain(report.longreprtext)
    if hasattr(report, "wasxfail"):
        report.wasxfail = plain(report.wasxfail)
