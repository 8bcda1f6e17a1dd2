"""When each build, boot, thaw and cell of a run began and how long it took, by worker."""

from __future__ import annotations

import threading
import time

from pydantic import BaseModel, ConfigDict

from harness.core.events import Bus, Event, EventKind
from harness.core.files import write_text
from harness.report import jsonl
from harness.report.record import Cell
from harness.report.run_dir import RunDirectory

# The process that builds images; without other processes it also runs the cells.
MAIN = "main"
CELL = "cell"


class Span(BaseModel):
    """One activity: a line of `timeline.jsonl`.

    `worker` is the lane of the process (`w1`, `w2`, and so on), or `main`. `kind` is `cell`, or the step's name as the
    board shows it: `kernel`, `modules`, `boot`, `thaw`, and so on. `name` is the case, or what the step ended with.
    `began` and `seconds` are seconds, `began` since the run was started. `verdict` is empty for steps; `failed` for a
    failed step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    worker: str
    vm: str
    kind: str
    name: str
    began: float
    seconds: float
    verdict: str = ""


class Timeline:
    """Collects the spans of a run in memory; `write_spans` writes them when the run ends."""

    def __init__(self, bus: Bus, began: float) -> None:
        """`began` is when the run was started, on the monotonic clock."""
        # Test reports carry the time of day; all processes of a run share its clock.
        self._zero = time.time() - (time.monotonic() - began)
        self._spans: list[Span] = []
        self._begun: dict[str, float] = {}
        self._lock = threading.Lock()
        bus.add_listener(self._receive)

    def begin_cell(self, nodeid: str, at: float) -> None:
        """Note when a cell's first phase began, in seconds since the epoch."""
        self._begun[nodeid] = at

    def end_cell(self, nodeid: str, at: float, cell: Cell, worker: str) -> None:
        """Add a cell that ended `at` seconds since the epoch."""
        began = self._begun.pop(nodeid, at)
        name = f"{cell.case} mutant {cell.mutant}" if cell.mutant else cell.case
        self._add(worker, cell.vm, CELL, name, began, at - began, cell.verdict.value)

    def write_spans(self, directory: RunDirectory) -> None:
        """Write the spans in the order in which they began. Raises OSError."""
        with self._lock:
            spans = sorted(self._spans, key=lambda span: span.began)
        write_text(directory.timeline_file, "".join(f"{jsonl.ascii_json(span)}\n" for span in spans))

    def _receive(self, event: Event) -> None:
        if event.kind in (EventKind.FINISHED, EventKind.FAILED):
            verdict = "failed" if event.kind is EventKind.FAILED else ""
            began = time.time() - event.seconds
            self._add(event.worker, event.vm, event.step, event.detail, began, event.seconds, verdict)

    def _add(self, worker: str, vm: str, kind: str, name: str, began: float, seconds: float, verdict: str) -> None:
        span = Span(
            worker=worker or MAIN,
            vm=vm,
            kind=kind,
            name=name.partition("\n")[0][:200],
            began=round(began - self._zero, 3),
            seconds=round(seconds, 3),
            verdict=verdict,
        )
        with self._lock:
            self._spans.append(span)


def read_spans(directory: RunDirectory) -> list[Span]:
    """The spans of a run that has ended, empty for a run of an earlier version or one that was killed."""
    return jsonl.read(directory.timeline_file, Span)
