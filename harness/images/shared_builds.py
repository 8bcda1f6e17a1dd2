"""Which VMs share a kernel build: their kernels are one entry of the store, or are linked from the same objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.images import kernel_config
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.vm_recipe import Kernel, Recipe


@dataclass(frozen=True)
class SharedBuilds:
    """The other VMs that use one VM's kernel, and those whose kernels are linked from its objects, by name."""

    same_kernel: tuple[str, ...]
    same_objects: tuple[str, ...]


def shared_builds(recipes: Iterable[Recipe]) -> dict[str, SharedBuilds]:
    """Map the name of each VM to what it shares with others of `recipes`.

    Only recipes are compared: nothing is fetched, and no key of the store is computed.
    """
    inputs = {recipe.name: _inputs(recipe) for recipe in recipes}
    found = {}
    for name, (kernel, objects) in inputs.items():
        same = [other for other, (its_kernel, _) in inputs.items() if other != name and its_kernel == kernel]
        linked = [other for other, (_, its_objects) in inputs.items() if other != name and its_objects == objects]
        found[name] = SharedBuilds(tuple(same), tuple(other for other in linked if other not in same))
    return found


def _inputs(recipe: Recipe) -> tuple[tuple[str, Kernel], tuple[str, Kernel]]:
    """Return what a kernel is built from, and what its objects are compiled from.

    `sibling` and `not_for_trees` are inputs of neither. Fragments that only the linker script reads are not inputs of
    the objects.
    """
    kernel = recipe.kernel.model_copy(update={"sibling": "", "not_for_trees": ()})
    compiled = [
        name
        for name in kernel.config
        if kernel_config.fragment_affects_compilation(fragment_or_patch_path("config", name))
    ]
    return (recipe.arch, kernel), (recipe.arch, kernel.model_copy(update={"config": tuple(compiled)}))
