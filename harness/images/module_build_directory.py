"""The directory in which probe modules are built. Its path does not depend on the build, so that ccache finds results.

kbuild compiles with absolute paths up to 6.12: of the sources, and in -DKBUILD_MODFILE. From 6.13 on it resolves the
path of the kernel's object tree, too (Makefile, `objtree := $(realpath $(KBUILD_OUTPUT))`). Both would be new for each
build, because an entry of the store has a key in its path and is built under a temporary name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import ProgressStep
from harness.core.files import sha256_of_strings
from harness.core.locks import hold_lock
from harness.core.process import run
from harness.images.kernel import ModuleBuildTrees
from harness.images.vm_recipe import Recipe

_WAIT_S = 3600.0
_LINK_S = 300.0


@dataclass(frozen=True)
class ModuleBuildDirectory:
    """An empty directory for the sources of modules, and the trees of the kernel to build them with."""

    sources: Path
    headers: ModuleBuildTrees


@contextmanager
def hold_module_build_directory(
    recipe: Recipe, headers: ModuleBuildTrees, step: ProgressStep
) -> Iterator[ModuleBuildDirectory]:
    """Yield the directory for modules of a recipe's kernel, which one build at a time has; remove it afterwards.

    Kernels built from one source tree with the same flags have one path. The part of a store entry that has `headers`
    is linked into the directory file by file. Raises HostError if another build does not end.
    """
    entry = paths.store_entry_or_path(headers.objects)
    source, objects = (_relative(tree, entry) for tree in (headers.source, headers.objects))
    identity = sha256_of_strings([recipe.arch, recipe.kernel.cflags, str(source), str(objects)])[:12]
    place = paths.cache() / "work" / f"modules-{recipe.arch}-{identity}"
    lock = place.with_name(f".{place.name}.lock")
    with hold_lock(lock, deadline=Deadline.after(_WAIT_S), on_wait=step.publish_progress):
        # A run that was killed leaves it.
        shutil.rmtree(place, ignore_errors=True)
        try:
            (place / "probes").mkdir(parents=True)
            if not objects.is_absolute():
                _link(entry / objects.parts[0], place)
            yield ModuleBuildDirectory(place / "probes", ModuleBuildTrees(place / source, place / objects))
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _relative(tree: Path, entry: Path) -> Path:
    """Return the path of a tree in a store entry; the path itself of a tree that is not below the entry."""
    found = tree.resolve()
    return found.relative_to(entry) if found != entry and found.is_relative_to(entry) else tree.absolute()


def _link(tree: Path, into: Path) -> None:
    """Link the files of a tree into a directory, or copy them if the file system cannot link; they keep their times.

    The store may be a link to another file system.
    """
    for option in ("--link", "--force"):
        finished = run(["cp", "--archive", option, tree, into], deadline=Deadline.after(_LINK_S))
        if finished.rc == 0:
            return
    raise HostError(f"cannot be copied: {finished.output.strip()}", where=str(tree), mend="check the disk of the cache")
