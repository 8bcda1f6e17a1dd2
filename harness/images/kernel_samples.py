"""Modules that the kernel's own source has for kprobes: samples/kprobes, of the very version that an image runs."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.core.process import run
from harness.images import kernel_source_trees
from harness.images.build_context import BuildContext
from harness.images.image import Image

KIND = "kernel-samples"
_DIRECTORY = Path("samples/kprobes")
_ALL = "all"
_FETCHING, _UNPACKING = 900.0, 300.0


def obtain_sample_sources(image: Image, build_context: BuildContext) -> Path:
    """Return a directory with a subdirectory for each sample, each with its source and a Kbuild.

    A packaged kernel's source is the package `linux-source-X.Y` of its suite. Raises HostError or RecipeError when the
    source cannot be had, BuildError when it has no samples.
    """
    recipe = image.recipe
    packages = build_context.for_suite(recipe.kernel.suite).packages
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
                tree = _part_of(deb, Path(scratch), build_context)
            else:
                tree = kernel_source_trees.unpack(
                    kernel_source_trees.source_tree_of_recipe(recipe, packages), packages, step
                )
            found = sorted((tree / _DIRECTORY).glob("*.c"))
            if not found:
                raise BuildError(f"no {_DIRECTORY}", where=recipe.name, mend="has the kernel moved its samples?")
            for file in found:
                directory = entry / file.stem
                directory.mkdir()
                shutil.copyfile(file, directory / file.name)
                (directory / "Kbuild").write_text(f"obj-m := {file.stem}.o\n")
        return {"samples": [file.stem for file in found]}

    parts = [*identity, code_sha256(Path(__file__))]
    return build_context.store.obtain(KIND, parts, vm=recipe.name, build=build).path


def _part_of(deb: Path, scratch: Path, build_context: BuildContext) -> Path:
    """The samples alone of a source package: the whole tree has 1.3 GB."""
    build_context.packages.unpack(deb, scratch / "package")
    tarball = next((scratch / "package").glob("usr/src/*.tar.*"), None)
    if tarball is None:
        raise HostError("holds no source tarball", where=deb.name, mend="name a linux-source-* package")
    chosen = ("--strip-components=1", "--no-same-owner", "--wildcards", f"*/{_DIRECTORY}/*")
    done = run(["tar", "-x", "-f", tarball, "-C", scratch, *chosen], deadline=Deadline.after(_UNPACKING))
    if done.rc:
        raise HostError(f"cannot unpack {tarball.name}: {done.output.strip()[-200:]}", mend="run again")
    return scratch
