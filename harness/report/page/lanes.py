"""The timeline of a run as lanes, one a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.progress_state import format_duration
from harness.report.timeline import CELL, MAIN, Span
from harness.verdict.cell_verdict_enum import Verdict

WIDTH = 1000.0
# Steps inside a cell, which its own span covers.
_INSIDE = frozenset({"armed", "resolved", "tracefs", "replace", "verify", "traits", "module"})
# A timeline of another version can have other verdicts.
_ACCEPTABLE = frozenset(verdict.value for verdict in Verdict if verdict.acceptable)
# In the order in which they are drawn: a thaw lies in the time of the cell that waits for it.
_KINDS = ("build", CELL, "failed", "boot", "thaw")


@dataclass(frozen=True)
class WorkerLane:
    """One worker: an SVG path for each kind of activity, and a sentence with the seconds of each."""

    worker: str
    paths: Mapping[str, str]
    sentence: str


@dataclass(frozen=True)
class WorkerLanes:
    """All lanes, the seconds that they span, and the marks of their axis: place and label."""

    lanes: Sequence[WorkerLane]
    seconds: float
    axis_marks: Sequence[tuple[float, str]]


def worker_lanes(spans: Sequence[Span]) -> WorkerLanes | None:
    """The lanes of a run, the process that builds first; None for a run without a timeline."""
    shown = [span for span in spans if span.kind not in _INSIDE]
    if not shown:
        return None
    seconds = max(span.began + span.seconds for span in shown) or 1.0
    workers = sorted(
        {span.worker for span in shown}, key=lambda name: (name.partition(" ")[0] != MAIN, len(name), name)
    )
    made = [_lane(worker, [span for span in shown if span.worker == worker], seconds) for worker in workers]
    return WorkerLanes(made, seconds, _marks(seconds))


def _lane(worker: str, spans: Sequence[Span], seconds: float) -> WorkerLane:
    scale = WIDTH / seconds
    drawn: dict[str, list[str]] = {}
    spent: Counter[str] = Counter()
    for span in spans:
        kind = _kind(span)
        spent[kind] += span.seconds  # type: ignore[assignment]
        width = max(span.seconds * scale, 0.4)
        drawn.setdefault(kind, []).append(f"M{span.began * scale:.1f} 0h{width:.1f}v14h-{width:.1f}z")
    words = ", ".join(f"{kind} {format_duration(spent[kind])}" for kind in _KINDS if kind in spent)
    return WorkerLane(worker, {kind: "".join(drawn[kind]) for kind in _KINDS if kind in drawn}, f"{worker}: {words}")


def _kind(span: Span) -> str:
    if span.kind == CELL:
        return CELL if span.verdict in _ACCEPTABLE else "failed"
    return span.kind if span.kind in ("boot", "thaw") else "build"


def _marks(seconds: float) -> list[tuple[float, str]]:
    """At most ten round times."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
    step = next((each for each in steps if seconds / each <= 10), int(seconds / 10) or steps[-1])
    return [(round(WIDTH * at / seconds, 1), format_duration(at)) for at in range(0, int(seconds) + 1, step)]
