"""The order in which rows begin (built images before unbuilt ones, the slowest first), and rows divided into parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from harness.core.errors import HostError
from harness.images.build_context import BuildContext
from harness.images.prepare import is_built
from harness.images.vm_recipe import Recipe
from harness.matrix.cells.selection import CellId
from harness.report.cell_duration_cache import case_and_mutant_key


def names_in_start_order(
    recipes: Iterable[Recipe],
    build_context: BuildContext,
    seconds: Mapping[str, float],
    build_seconds: Mapping[str, float],
) -> list[str]:
    """Return the recipes' names in the order in which their rows begin.

    Built images come first, the longest row by past durations before shorter ones, so that the run does not wait for
    it alone at the end. Then come binary kernels, then kernels that must be compiled, each the longest past build
    first. An image whose key cannot be computed here, without compilers, is not built.
    """

    def place(recipe: Recipe) -> tuple[int, float]:
        with suppress(HostError):
            if is_built(recipe, build_context):
                return 0, -seconds.get(recipe.name, 0.0)
        return (1 if recipe.kernel.source == "debian-binary" else 2), -build_seconds.get(recipe.name, 0.0)

    return [recipe.name for recipe in sorted(recipes, key=place)]


# The assumed duration of a cell that never ran, in seconds.
_UNKNOWN = 1.0


def part_index_of_each_cell(cells: Sequence[CellId], parts: int, seconds: Mapping[str, float]) -> list[int]:
    """Divide a row into parts of about equal duration; return the index of the part for each cell, in order.

    A case and its mutants stay in one part, because the honest cell must know which mutants survived. `seconds` are the
    past durations of cells, by `case_and_mutant_key`.
    """
    # The mutants of all parameters of a case precede its honest cells, so the cells of a case are not always adjacent.
    weights: defaultdict[tuple[str, str], float] = defaultdict(float)
    for cell in cells:
        weights[cell.vm, cell.case] += seconds.get(case_and_mutant_key(cell.case, cell.mutant), _UNKNOWN)
    part = dict(zip(weights, part_index_of_each_weight([*weights.values()], parts), strict=True))
    return [part[cell.vm, cell.case] for cell in cells]


def part_index_of_each_weight(weights: Sequence[float], parts: int) -> list[int]:
    """Divide weights into parts of about equal sums, in order; return the index of the part for each."""
    index, before, total = [], 0.0, sum(weights)
    for weight in weights:
        # The middle of a last weight of 0, a test that took no measurable time, is the end of the last part.
        index.append(min(parts - 1, int((before + weight / 2) / total * parts)) if total else 0)
        before += weight
    return index
