"""A run that cannot write what it found: it stops with one line and the harness's own status, what it has is kept."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from harness.core.errors import HARNESS_FAILED, HostError


class ResultsUnwritable:
    """A plugin that stands between pytest, for which such a failure is an internal error, and those who write."""

    def __init__(self) -> None:
        self._trouble = ""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_logreport(self) -> Generator[None, Any, Any]:
        """A cell's result that cannot be written ends the run: whatever came after it would be lost too."""
        try:
            return (yield)
        except HostError as error:
            self._trouble = str(error)
            # An interrupted run has its summary printed, one with another status has not.
            pytest.exit(str(error), returncode=pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Reports that cannot be written cost neither the summary on the terminal nor the right exit status."""
        try:
            yield
        except (HostError, OSError) as error:
            self._trouble = self._trouble or str(error)
        if self._trouble:
            session.exitstatus = HARNESS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell what is missing in the run's directory."""
        if self._trouble:
            terminalreporter.write_line(f"not everything could be written: {self._trouble}")
