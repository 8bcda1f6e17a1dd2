"""The live view of the board on a terminal: one line for each VM, redrawn below pytest's output."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from harness.core.events import EventKind
from harness.report.progress_state import Activity, Progress, format_duration
from harness.report.summary import style_of
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.printk import without_control_codes

_PER_SECOND = 5.0
_BAR_WIDTH = 20


class LiveView:
    """Draws rows until it is closed."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._spinner = Spinner("dots")
        self._above: _Above | None = None
        # pytest redirects fd 1 to a file while a test runs, so the board keeps a duplicate of the terminal's fd.
        self._terminal = os.fdopen(os.dup(sys.__stdout__.fileno() if sys.__stdout__ else 1), "w", encoding="utf-8")
        self._console = Console(file=self._terminal, force_terminal=True, highlight=False)
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        # Unless it is closed, the terminal is left without a cursor.
        atexit.register(self.close)

    def stream_above_view(self, stream: TextIO) -> TextIO:
        """Return a stream whose lines are printed above the rows until the view is closed."""
        self._above = _Above(stream, self._console)
        return cast(TextIO, self._above)

    def close(self) -> None:
        """Remove the rows; from now on the stream from `stream_above_view` writes directly."""
        atexit.unregister(self.close)
        if self._terminal.closed:
            return
        self._live.stop()
        if self._above:
            self._above.release()
        self._terminal.close()

    def _render(self) -> RenderableType:
        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        for vm, activity in self._progress.current_activity_by_vm().items():
            table.add_row(*self._row(vm, activity, now), self._cells(vm))
        unfinished = Text.from_ansi(self._above.unfinished) if self._above else Text()
        return Group(unfinished, self._header(now), table) if unfinished else Group(self._header(now), table)

    def _header(self, now: float) -> Text:
        totals = self._progress.totals()
        header = Text(f"pinpoint {format_duration(now - self._progress.began)}  ", style="bold")
        header.append(str(self._progress.run_progress_and_rate(now)), style="not bold")
        for verdict in Verdict:
            if totals[verdict]:
                header.append(f"  {totals[verdict]} {verdict.value}", style=style_of(verdict))
        return header

    def _row(self, vm: str, activity: Activity, now: float) -> tuple[RenderableType, ...]:
        event = activity.event
        mark: RenderableType = self._spinner
        if event.kind is EventKind.FINISHED:
            mark = Text("✓", style="green")
        elif event.kind is EventKind.FAILED:
            mark = Text("✗", style="bold red")
        bar: RenderableType = Text()
        if activity.active and event.fraction is not None:
            bar = ProgressBar(total=1.0, completed=event.fraction, width=_BAR_WIDTH)
        detail = Text(without_control_codes(event.detail).partition("\n")[0], overflow="ellipsis", no_wrap=True)
        seconds = Text(format_duration(activity.seconds(now)), style="dim", justify="right")
        return mark, Text(vm, no_wrap=True), Text(event.step, style="bold", no_wrap=True), seconds, bar, detail

    def _cells(self, vm: str) -> Text:
        """How far the cells of a VM are, and how many of them make the run fail."""
        ended, asked, bad = self._progress.ended_expected_and_failed_cells(vm)
        text = Text(f"{ended}/{asked}" if asked else "", justify="right", no_wrap=True)
        return text.append(f" {bad} bad", style="bold red") if bad else text


class _Above:
    """A stream that prints its lines above the rows; its unfinished line is drawn with the rows."""

    def __init__(self, stream: TextIO, console: Console) -> None:
        self._stream = stream
        self._console: Console | None = console
        self._lock = threading.Lock()
        self.unfinished = ""

    def write(self, text: str) -> int:
        """Print the complete lines and keep the rest."""
        with self._lock:
            if self._console is None:
                return self._stream.write(text)
            *lines, rest = (self.unfinished + text).split("\n")
            # pytest rewrites a line by returning to its beginning.
            self.unfinished = rest.rpartition("\r")[2]
            for line in lines:
                self._console.print(Text.from_ansi(line.rpartition("\r")[2]), soft_wrap=True)
            return len(text)

    def release(self) -> None:
        """Write the unfinished line to the stream; from now on, all text goes to the stream directly."""
        with self._lock:
            self._console = None
            self._stream.write(self.unfinished)
            self._stream.flush()
            self.unfinished = ""

    def flush(self) -> None:
        """Flush the stream after its release; before that, complete lines are printed at once."""
        if self._console is None:
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
