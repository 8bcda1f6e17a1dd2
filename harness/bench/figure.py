"""A figure of the bench: which sides it compares, and its result."""

from __future__ import annotations

from dataclasses import dataclass

from harness.bench.samples import Samples
from harness.report.metrics_with_goals import meets


@dataclass(frozen=True)
class Pair:
    """A figure to be measured: `ours` and `peer` name sides, and `goal` bounds the ratio of ours to peer.

    Without a peer the figure is our seconds, and the goal bounds them.
    """

    name: str
    what: str
    goal: str
    ours: str
    peer: str = ""

    @property
    def sides(self) -> tuple[str, ...]:
        """The names of its sides, ours first."""
        return (self.ours, self.peer) if self.peer else (self.ours,)


@dataclass(frozen=True)
class Absent:
    """A side that cannot be measured here, and the reason in one line."""

    why: str


@dataclass(frozen=True)
class FigureResult:
    """A figure with the samples of its sides; `value` is None when a side is absent."""

    pair: Pair
    ours: Samples | Absent
    peer: Samples | Absent | None

    @property
    def value(self) -> float | None:
        """Our median divided by the peer's, or our median in seconds where the figure has no peer."""
        if not isinstance(self.ours, Samples) or isinstance(self.peer, Absent):
            return None
        return self.ours.median if self.peer is None else self.ours.median / self.peer.median

    @property
    def unit(self) -> str:
        """The unit of `value`."""
        return "ratio" if self.pair.peer else "s"

    @property
    def holds(self) -> bool:
        """True when the goal is met; a figure that was not measured does not meet it."""
        return self.value is not None and meets(self.value, self.pair.goal)

    @property
    def absent(self) -> str:
        """The reason why there is no value; empty if there is one."""
        return next((side.why for side in (self.ours, self.peer) if isinstance(side, Absent)), "")


def figure_result(pair: Pair, taken: dict[str, Samples | Absent]) -> FigureResult:
    """Return the figure of a pair; `taken` has the samples of all sides, by name."""
    return FigureResult(pair, taken[pair.ours], taken[pair.peer] if pair.peer else None)
