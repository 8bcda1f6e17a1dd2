"""The board among what pytest prints."""

from __future__ import annotations

import sys

import pytest

from harness.core.events import Bus
from harness.report.board import Board


def board(reporter: pytest.TerminalReporter, bus: Bus) -> Board:
    """A board that prints through pytest's own reporter, so that neither breaks the other's lines."""

    def write_line(line: str) -> None:
        reporter.ensure_newline()
        # With pytest-xdist the reporter does not know of the dots it has written.
        if reporter._tw.width_of_current_line:
            reporter._tw.line()
        reporter.write_line(line)
        reporter.flush()

    made = Board(bus, sys.stdout.isatty(), write_line)
    reporter._tw._file = made.above(reporter._tw._file)
    return made
