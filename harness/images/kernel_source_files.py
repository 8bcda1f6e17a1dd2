"""Some files of the source of the very kernel that an image runs: its samples, its selftests."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.core.process import run
from harness.images import kernel_source_trees
from harness.images.build_context import BuildContext
from harness.images.image import Image

KIND = "kernel-files"
_ALL = "all"
_FETCHING, _UNPACKING = 900.0, 300.0


def obtain_source_files(image: Image, build_context: BuildContext, wanted: Sequence[str]) -> Path:
    """Return a directory with the files and directories `wanted` of the kernel's source, each at its path there.

    What the source does not have is left out. A packaged kernel's source is the package `linux-source-X.Y` of its
    suite. Raises HostError or RecipeError when the source cannot be had.
    """
    recipe = image.recipe
    packages = build_context.with_suite(recipe.kernel.suite).packages
    if recipe.kernel.source == "given":
        raise HostError("its kernel was given without its source", where=recipe.name, mend="give a source tree")
    if recipe.kernel.source == "debian-binary":
        version = re.match(r"\d+\.\d+", image.release)
        package = f"linux-source-{version[0] if version else image.release}"
        identity = [package, packages.hash(package, _ALL)]
    else:
        package = ""
        identity = kernel_source_trees.source_tree_of_recipe(recipe, packages).key_parts

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            if package:
                step.publish_progress(f"unpacking {package}")
                deb = packages.fetch(package, _ALL, deadline=Deadline.after(_FETCHING))
                tree = _part_of(deb, Path(scratch), build_context, wanted)
            else:
                source = kernel_source_trees.source_tree_of_recipe(recipe, packages)
                tree = kernel_source_trees.obtain_source_tree(source, packages, step)
            found = [name for name in wanted if (tree / name).exists()]
            for name in found:
                copy = entry / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                if (tree / name).is_dir():
                    shutil.copytree(tree / name, copy, symlinks=True)
                else:
                    shutil.copyfile(tree / name, copy)
        return {"found": found}

    parts = [*identity, *wanted, code_sha256(Path(__file__))]
    return build_context.store.obtain(KIND, parts, vm=recipe.name, build=build).path


def _part_of(deb: Path, scratch: Path, build_context: BuildContext, wanted: Sequence[str]) -> Path:
    """Unpack the wanted files alone of a source package: the whole tree has 1.3 GB."""
    build_context.packages.unpack_deb(deb, scratch / "package")
    tarball = next((scratch / "package").glob("usr/src/*.tar.*"), None)
    if tarball is None:
        raise HostError("holds no source tarball", where=deb.name, mend="name a linux-source-* package")
    tree = scratch / "tree"
    tree.mkdir()
    chosen = ["--strip-components=1", "--no-same-owner", "--wildcards", "--no-wildcards-match-slash"]
    # tar fails for a name that is not in the archive, after it has unpacked the others; what is there is what counts.
    done = run(
        ["tar", "-x", "-f", tarball, "-C", tree, *chosen, *(f"*/{name}" for name in wanted)],
        deadline=Deadline.after(_UNPACKING),
    )
    if done.rc and "Not found in archive" not in done.output:
        raise HostError(f"cannot unpack {tarball.name}: {done.output.strip()[-200:]}", mend="run again")
    return tree
