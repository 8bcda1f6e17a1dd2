"""Where recipes are, and the config fragments and patches that they name: in vm_images/, and in the own tree's."""

from __future__ import annotations

from pathlib import Path

from harness.core import paths
from harness.core.errors import RecipeError
from harness.core.files import read_regular_file

# A patch or a fragment of a kernel configuration.
_LARGEST_PART_BYTES = 4 << 20


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


def demand_fragment_or_patch(path: Path, kind: str, name: str) -> None:
    """Raise RecipeError if a fragment or patch of the recipe does not exist or is not a text file."""
    wanted = fragment_or_patch_path(kind, name)
    if not wanted.exists():
        raise RecipeError(
            f"kernel.{kind} names {name!r}", where=path.name, mend=f"create {wanted.relative_to(paths.RECIPES.parent)}"
        )
    try:
        read_regular_file(wanted, _LARGEST_PART_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else f"is not UTF-8 at byte {error.start}"
        raise RecipeError(str(what), where=str(wanted), mend="correct that file") from None
