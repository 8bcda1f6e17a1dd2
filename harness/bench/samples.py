"""The samples of one side of a figure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """Seconds, one value a run, in the order they were taken; at least one."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value, or the mean of the two middle values."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The quickest run."""
        return min(self.values)

    @property
    def most(self) -> float:
        """The slowest run."""
        return max(self.values)

    def __str__(self) -> str:
        """Format as `1.23 s (1.20..1.31)`, or in milliseconds below 0.1 s."""
        factor, unit = (1000, "ms") if self.median < 0.1 else (1, "s")
        median, least, most = (f"{value * factor:.2f}" for value in (self.median, self.least, self.most))
        return f"{median} {unit} ({least}..{most})"
