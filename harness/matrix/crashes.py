"""A worker that dies with a cell: that cell is told of, and the rest of its row runs in another."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadGroupScheduling

from harness.images.recipe import Recipe
from harness.matrix.cells import CellWatch
from harness.matrix.selection import CellId
from harness.verdict.words import Verdict

_REASON = "the process that ran it is gone: killed, or out of memory; see the host's own log"


class RowScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """pytest-xdist's, but for a cell that a worker died of: 3.8 runs it again, until no worker is left to die of it."""

    def remove_node(self, node: Any) -> str | None:  # noqa: ANN401 - a class of pytest-xdist that it does not export
        """Take a worker off; the cell that it died of, None when it had none left to run."""
        for unit in self.assigned_work[node].values():
            for name, ended in unit.items():
                if not ended:
                    unit[name] = True
                    super().remove_node(node)
                    return str(name)
        super().remove_node(node)
        return None


def lost(cell: CellId, recipe: Recipe) -> CellWatch:
    """What is known of a cell whose worker died."""
    watch = CellWatch(cell, recipe.traits.model_dump())
    watch.worse(Verdict.HARNESS_ERROR, _REASON)
    return watch
