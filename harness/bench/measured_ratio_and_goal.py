"""A figure of the bench: which sides it compares, and its result."""

from __future__ import annotations

from dataclasses import dataclass

from harness.bench.samples import Samples
from harness.report.metrics_with_goals import meets_goal


@dataclass(frozen=True)
class FigureDefinition:
    """A figure to be measured: `our_side` and `peer_side` name sides, and `goal` bounds the ratio of ours to peer.

    Without a peer the figure is our seconds, and the goal bounds them.
    """

    name: str
    description: str
    goal: str
    our_side: str
    peer_side: str = ""

    @property
    def side_names(self) -> tuple[str, ...]:
        """The names of its sides, ours first."""
        return (self.our_side, self.peer_side) if self.peer_side else (self.our_side,)


@dataclass(frozen=True)
class UnavailableSide:
    """A side that cannot be measured here, and the reason in one line."""

    reason: str


@dataclass(frozen=True)
class FigureResult:
    """A figure with the samples of its sides; `value` is None when a side is absent."""

    definition: FigureDefinition
    our_samples: Samples | UnavailableSide
    peer_samples: Samples | UnavailableSide | None

    @property
    def value(self) -> float | None:
        """Our median divided by the peer's, or our median in seconds where the figure has no peer."""
        if not isinstance(self.our_samples, Samples) or isinstance(self.peer_samples, UnavailableSide):
            return None
        return (
            self.our_samples.median if self.peer_samples is None else self.our_samples.median / self.peer_samples.median
        )

    @property
    def unit(self) -> str:
        """The unit of `value`."""
        return "ratio" if self.definition.peer_side else "s"

    @property
    def goal_met(self) -> bool:
        """True when the goal is met; a figure that was not measured does not meet it."""
        return self.value is not None and meets_goal(self.value, self.definition.goal)

    @property
    def reason_not_measured(self) -> str:
        """The reason why there is no value; empty if there is one."""
        return next(
            (side.reason for side in (self.our_samples, self.peer_samples) if isinstance(side, UnavailableSide)), ""
        )


def figure_result(pair: FigureDefinition, taken: dict[str, Samples | UnavailableSide]) -> FigureResult:
    """Return the figure of a pair; `taken` has the samples of all sides, by name."""
    return FigureResult(pair, taken[pair.our_side], taken[pair.peer_side] if pair.peer_side else None)
