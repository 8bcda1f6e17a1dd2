"""Directories of Pinpoint, of the user's own tree, of the cache and of the results of runs.

`doctor` reads them before anything is installed, so only Python's standard library is imported here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the directories of the source tree are inside the package, because site-packages belongs to all packages.
_IN_WHEEL = _PACKAGE / "project"
INSTALLED = _IN_WHEEL.is_dir()
PROJECT = _IN_WHEEL if INSTALLED else _PACKAGE.parent
RECIPES = PROJECT / "vm_images"
PROBES = PROJECT / "probes"
TESTS = PROJECT / "tests"
CASES = PROJECT / "cases"
# The command that starts Pinpoint, for the commands that are printed.
PROGRAM = "pinpoint" if INSTALLED else "./pinpoint"
# The directory of --project, for this process and for the processes that it starts.
OWN_TREE = "PINPOINT_OWN_TREE"
# On a host of a cluster: the copies of the user's own files, by their paths on the controller's host, as JSON.
COPIES = "PINPOINT_COPIES"


def cache() -> Path:
    """Return the cache directory: `$PINPOINT_CACHE`, else the platform's cache directory for Pinpoint."""
    named = os.environ.get("PINPOINT_CACHE")
    if named:
        return _without_links(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("pinpoint"))


def results() -> Path:
    """Return the directory of results: `$PINPOINT_RESULTS`, else `results/` in the source tree.

    Without a source tree it is `results/` in the current directory.
    """
    named = os.environ.get("PINPOINT_RESULTS")
    return _without_links(named) if named else (Path.cwd() if INSTALLED else PROJECT) / "results"


def _without_links(named: str) -> Path:
    """Resolve links. Path.resolve() raises RuntimeError for a loop of links; here the first use raises OSError."""
    return Path(os.path.realpath(named))


def store_entry_or_path(path: Path) -> Path:
    """Return the entry of the store that contains a path, or the path itself: files of one entry need each other."""
    store, found = (cache() / "store").resolve(), path.resolve()
    return store / found.relative_to(store).parts[0] if found.is_relative_to(store) and found != store else path


def own_tree() -> Path | None:
    """Return the user's own tree, the directory of --project; None without one."""
    named = os.environ.get(OWN_TREE)
    return Path(named) if named else None


def copy_of(path: Path) -> Path:
    """Return this host's copy of a file of the controller's host; the path itself on the controller's host."""
    return Path(json.loads(os.environ.get(COPIES, "{}")).get(str(path), path))


def original_of(path: Path) -> Path:
    """Return the path on the controller's host of a copy; the path itself on the controller's host."""
    copies = json.loads(os.environ.get(COPIES, "{}"))
    return next((Path(original) for original, copy in copies.items() if copy == str(path)), path)


def with_own_tree(ours: Path) -> list[Path]:
    """Return one of our directories, and the directory of the same name in the own tree, if there is one."""
    tree = own_tree()
    own = [tree / ours.name] if tree and (tree / ours.name).is_dir() else []
    return [ours, *own]


def find_in_trees(ours: Path, name: str) -> Path:
    """Return a file below one of our directories, or the own tree's, if only that exists. No name is in both."""
    our_path, *own = [directory / name for directory in with_own_tree(ours)]
    return next((path for path in own if path.exists()), our_path)


def case_file(name: str) -> Path:
    """Return the path of a case file by its name in results, such as `cases/test_sites.py`."""
    directory, _, file = name.partition("/")
    return find_in_trees(CASES, file) if directory == CASES.name else PROJECT / name


def case_name(path: Path, root: Path) -> str:
    """Return the name in results of a case file: its path below the own tree, or relative to `root`."""
    tree = own_tree()
    if tree and (found := path.resolve()).is_relative_to(tree / CASES.name):
        return str(found.relative_to(tree))
    return os.path.relpath(path, root)
