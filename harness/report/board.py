"""The board: what builds, boots and runs, while it does. Live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, TextIO

from harness.core import process
from harness.core.events import Bus, Phase
from harness.report.live import LiveView
from harness.report.progress import Activity, Progress, clock
from harness.report.record import Cell
from harness.verdict.printk import plain

if TYPE_CHECKING:
    import pytest

# A step that goes on without ending is told of this often where there is no terminal.
_PATIENCE = 10.0
# How often the board may speak while jobs run.
_LOOK_SECONDS = 0.5


class Board:
    """Shows a run's progress.

    Nothing is printed but from `flush` (plain lines) and from the live view's own thread, which keeps its place below
    the lines that others print through `above`.
    """

    def __init__(self, bus: Bus, terminal: bool, write_line: Callable[[str], None] = print) -> None:
        self._progress = Progress(bus)
        self._write_line = write_line
        self._told: dict[tuple[str, str], float] = {}
        self._live = LiveView(self._progress) if terminal else None

    def above(self, stream: TextIO) -> TextIO:
        """What to write to instead of `stream`, so that its lines stand above the live view; itself without one."""
        return self._live.above(stream) if self._live else stream

    def count(self, cell: Cell) -> None:
        """Count a finished cell."""
        self._progress.count(cell)

    def flush(self) -> None:
        """Tell what happened since, where nothing else is printing. With a live view there is nothing to do."""
        if self._live:
            return
        for activity in self._progress.news():
            if self._worth_a_line(activity):
                self._told[activity.event.vm, activity.event.step] = time.monotonic()
                self._write_line(self._line(activity))

    def follow(self, jobs: Collection[Future[Any]]) -> None:
        """Show what goes on until these jobs have ended. An interruption ends their children, and goes on."""
        try:
            while wait(jobs, timeout=_LOOK_SECONDS).not_done:
                self.flush()
        except KeyboardInterrupt:
            process.stop_all()
            raise

    def close(self) -> None:
        """Tell what is untold and give the terminal back."""
        self.flush()
        if self._live:
            self._live.close()

    def _worth_a_line(self, activity: Activity) -> bool:
        """Every beginning and end; progress only when nothing was told of the step for a while."""
        told = self._told.get((activity.event.vm, activity.event.step))
        return activity.event.phase is not Phase.PROGRESS or told is None or time.monotonic() - told >= _PATIENCE

    def _line(self, activity: Activity) -> str:
        elapsed = time.monotonic() - self._progress.began
        return f"[{elapsed:7.1f}s] {activity.event.vm:<18} {activity.event.step:<10} {told(activity)}"


def told(activity: Activity) -> str:
    """One activity in words: what it does, how far it is, or how it ended and how long it took."""
    event = activity.event
    detail = plain(event.detail).partition("\n")[0]
    if event.phase is Phase.FAILED:
        return f"FAILED after {clock(event.seconds)}: {detail}"
    if event.phase is Phase.FINISHED:
        return " ".join(part for part in (f"done in {clock(event.seconds)}", detail and f"({detail})") if part)
    percent = "" if event.fraction is None else f"{event.fraction * 100:.0f} %"
    return " ".join(part for part in (detail or "begins", percent) if part)


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
