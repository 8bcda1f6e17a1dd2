"""Stops a run that cannot write its results, with a one-line error and status 3; results already written are kept."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from harness.core.errors import HARNESS_FAILED, HostError


class StopOnUnwritableResults:
    """A plugin that catches errors in the hooks that write results, which pytest would report as internal errors."""

    def __init__(self) -> None:
        self._trouble = ""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_logreport(self) -> Generator[None, Any, Any]:
        """End the run when a cell's result cannot be written, because later results would be lost too."""
        try:
            return (yield)
        except HostError as error:
            self._trouble = str(error)
            # pytest prints the summary of an interrupted run, but not of a run with another status.
            pytest.exit(str(error), returncode=pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Keep the terminal summary and the exit status when a report cannot be written."""
        try:
            yield
        except (HostError, OSError) as error:
            self._trouble = self._trouble or str(error)
        if self._trouble:
            session.exitstatus = HARNESS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what could not be written to the run's directory."""
        if self._trouble:
            terminalreporter.write_line(f"not everything could be written: {self._trouble}")
