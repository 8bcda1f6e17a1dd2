"""The user's own tree: a directory with recipes, modules and cases that `--project` adds to ours."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from harness.core import paths
from harness.core.errors import UsageError

_DIRECTORIES = (paths.RECIPES, paths.PROBES, paths.CASES)
# Files that recipes, runs and results find by name alone: a directory of ours, and a pattern below it.
_NAMED_ONCE = (
    (paths.RECIPES, "*.toml"),
    (paths.RECIPES, "config/*.config"),
    (paths.RECIPES, "patches/*.patch"),
    (paths.CASES, "test_*.py"),
)


def use_own_tree(directory: Path) -> None:
    """Use the recipes, modules and cases of a user's directory too, here and in the processes that this one starts.

    Raises UsageError for a directory that does not exist, has nothing to add, or has a file with the name of one of
    ours.
    """
    tree = directory.expanduser().resolve()
    names = [each.name for each in _DIRECTORIES]
    if not tree.is_dir():
        raise UsageError("--project names no directory", where=str(directory), mend=f"give one with {_listed(names)}")
    if not any((tree / name).is_dir() for name in names):
        raise UsageError(f"has no {_listed(names)}", where=str(tree), mend="see docs/your-own-tree.md")
    for ours, pattern in _NAMED_ONCE:
        for own in sorted((tree / ours.name).glob(pattern)):
            same = ours / own.relative_to(tree / ours.name)
            if same.exists():
                raise UsageError(f"has the name of {same}", where=str(own), mend="rename yours")
    os.environ[paths.OWN_TREE] = str(tree)


def own_tree_option() -> str:
    """Return the option that names the own tree, after a space; empty without one."""
    tree = paths.own_tree()
    return f" --project {shlex.quote(str(paths.original_of(tree)))}" if tree else ""


def _listed(names: list[str]) -> str:
    return f"{', '.join(f'{name}/' for name in names[:-1])} or {names[-1]}/"
