"""The board shows what is being built, booted and run: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from harness.core import process
from harness.core.events import Bus, EventKind
from harness.report.progress_state import Activity, Progress, format_duration
from harness.report.record import Cell
from harness.verdict.printk import without_control_codes

if TYPE_CHECKING:
    import pytest

    from harness.report.live_progress_view import LiveView

# How often a line is printed for a step that is still running, without a terminal, in seconds.
_PATIENCE = 10.0
# How often a line with the numbers of the whole run is printed, without a terminal, in seconds.
_TALLY_SECONDS = 30.0
# Without a finished cell the numbers are printed less often, so that a log shows that the run goes on.
_QUIET_TALLY_SECONDS = 120.0
# How often the board is updated while jobs run.
_LOOK_SECONDS = 0.5

T = TypeVar("T")


class Board:
    """Shows a run's progress.

    Only `print_new_steps_as_plain_lines` and the live view's own thread print. The live view stays below other output,
    which is printed through `stream_above_view`.
    """

    def __init__(self, bus: Bus, terminal: bool, write_line: Callable[[str], None] = print) -> None:
        self._progress = Progress(bus)
        self._write_line = write_line
        self._printed_at: dict[tuple[str, str], float] = {}
        self._tallied, self._tallied_at = 0, time.monotonic()
        self._live = _live_view(self._progress) if terminal else None

    def stream_above_view(self, stream: TextIO) -> TextIO:
        """Return a stream that prints above the live view; `stream` itself if there is no live view."""
        return self._live.stream_above_view(stream) if self._live else stream

    def count_finished_cell(self, cell: Cell) -> None:
        """Count a finished cell."""
        self._progress.count_finished_cell(cell)

    def set_expected_cells(self, asked: Mapping[str, int]) -> None:
        """Set how many cells were asked for, by VM."""
        self._progress.set_expected_cells(asked)

    def print_new_steps_as_plain_lines(self) -> None:
        """Print the news since the last call; call it only where nothing else prints. A live view needs no flush."""
        if self._live:
            return
        for activity in self._progress.take_changed_activities():
            if self._worth_a_line(activity):
                self._printed_at[activity.event.vm, activity.event.step] = time.monotonic()
                self._write_line(self._line(activity))
        self._print_tally()

    def _print_tally(self) -> None:
        """Print how far the run is, less often while no cell ends; a board without cells prints nothing."""
        now = time.monotonic()
        tally = self._progress.run_progress_and_rate(now)
        patience = _QUIET_TALLY_SECONDS if tally.ended_cells == self._tallied else _TALLY_SECONDS
        if not tally.expected_cells or now - self._tallied_at < patience:
            return
        self._tallied, self._tallied_at = tally.ended_cells, now
        self._write_line(f"[{now - self._progress.began:7.1f}s] {tally}")

    def follow_jobs(self, jobs: Collection[Future[Any]]) -> None:
        """Show progress until these jobs have ended. A KeyboardInterrupt stops all children and is raised again."""
        try:
            while wait(jobs, timeout=_LOOK_SECONDS).not_done:
                self.print_new_steps_as_plain_lines()
        except KeyboardInterrupt:
            process.stop_all()
            raise

    def run_calls_then_close(self, *calls: Callable[[], T]) -> list[T]:
        """Make calls one after the other in a thread, show their progress, close the board, and return their results.

        Raises what the first call that failed has raised, after all have ended.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="work") as aside:
            try:
                jobs = [aside.submit(call) for call in calls]
                self.follow_jobs(jobs)
            finally:
                self.close()
        return [job.result() for job in jobs]

    def close(self) -> None:
        """Print the last news and remove the live view."""
        self.print_new_steps_as_plain_lines()
        if self._live:
            self._live.close()

    def _worth_a_line(self, activity: Activity) -> bool:
        """Return True for each beginning and end, and for progress if the step's last line is old enough."""
        last = self._printed_at.get((activity.event.vm, activity.event.step))
        return activity.event.kind is not EventKind.PROGRESS or last is None or time.monotonic() - last >= _PATIENCE

    def _line(self, activity: Activity) -> str:
        elapsed = time.monotonic() - self._progress.began
        return (
            f"[{elapsed:7.1f}s] {activity.event.vm:<18} {activity.event.step:<10} {describe_progress_or_end(activity)}"
        )


def _live_view(progress: Progress) -> LiveView:
    # Only a terminal needs rich, which takes a sixth of a second to import.
    from harness.report.live_progress_view import LiveView

    return LiveView(progress)


def describe_progress_or_end(activity: Activity) -> str:
    """Describe one activity: what it does and how far it is, or how it ended and how long it took."""
    event = activity.event
    detail = without_control_codes(event.detail).partition("\n")[0]
    if event.kind is EventKind.FAILED:
        return f"FAILED after {format_duration(event.seconds)}: {detail}"
    if event.kind is EventKind.FINISHED:
        return " ".join(
            part for part in (f"done in {format_duration(event.seconds)}", detail and f"({detail})") if part
        )
    percent = "" if event.fraction is None else f"{event.fraction * 100:.0f} %"
    return " ".join(part for part in (detail or "begins", percent) if part)


def make_board_for_pytest(reporter: pytest.TerminalReporter, bus: Bus) -> Board:
    """Return a board that prints through pytest's own reporter, so that neither breaks the other's lines."""

    def write_line(line: str) -> None:
        reporter.ensure_newline()
        # With several processes the reporter does not count the dots that it has written.
        if reporter._tw.width_of_current_line:
            reporter._tw.line()
        reporter.write_line(line)
        reporter.flush()

    made = Board(bus, sys.stdout.isatty(), write_line)
    reporter._tw._file = made.stream_above_view(reporter._tw._file)
    return made
