"""Where recipes are, and the config fragments and patches that they name: in vm_images/, and in the own tree's."""

from __future__ import annotations

from pathlib import Path

from harness.core import paths


def files_by_name(directory: Path = paths.RECIPES) -> dict[str, Path]:
    """Return the recipe of every VM by name: those of the directory, or of ours and of the own tree's for either."""
    both = paths.with_own_tree(paths.RECIPES)
    places = both if directory in both else [directory]
    return dict(sorted((path.stem, path) for place in places for path in place.glob("*.toml")))


def fragment_or_patch_path(kind: str, name: str) -> Path:
    """Return the file of a config fragment (`config`) or a patch (`patches`) by its name in a recipe."""
    suffix = {"config": ".config", "patches": ".patch"}[kind]
    return paths.find_in_trees(paths.RECIPES, f"{kind}/{name.removesuffix(suffix)}{suffix}")


def tree_of(recipe: Path) -> Path:
    """Return the directory that a relative path in a recipe begins at: the own tree for its recipes, else ours."""
    own = paths.own_tree()
    return own if own and recipe.is_relative_to(own) else paths.PROJECT
