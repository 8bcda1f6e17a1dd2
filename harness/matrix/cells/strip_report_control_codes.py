"""Strips control characters from pytest reports, so that guest output cannot control a terminal or an XML parser."""

from __future__ import annotations

import pytest

from harness.verdict.printk import without_control_codes


def strip_control_codes_in_place(report: pytest.TestReport) -> None:
    """Strip control codes from a report's texts; a text without control codes stays as it is."""
    report.sections = [(title, without_control_codes(text)) for title, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, without_control_codes(reason))
    elif report.longrepr is not None and without_control_codes(report.longreprtext) != report.longreprtext:
        report.longrepr = without_control_codes(report.longreprtext)
    if hasattr(report, "wasxfail"):
        report.wasxfail = without_control_codes(report.wasxfail)
