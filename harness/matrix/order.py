"""In which order rows begin: those that can run at once before those to be built, the slowest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.images.prepare import built
from harness.images.recipe import Recipe
from harness.images.workshop import Workshop


def in_order(recipes: Iterable[Recipe], workshop: Workshop, seconds: Mapping[str, float]) -> list[str]:
    """The recipes' names: built images by the seconds their rows last took, longest first; then binary kernels; then
    kernels to be compiled.

    The longest row first, because what begins last should not be what the run then waits for.
    """

    def place(recipe: Recipe) -> tuple[int, float]:
        if built(recipe, workshop):
            return 0, -seconds.get(recipe.name, 0.0)
        return (1 if recipe.kernel.source == "debian-binary" else 2), 0.0

    return [recipe.name for recipe in sorted(recipes, key=place)]
