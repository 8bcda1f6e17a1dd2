"""Modules of an image's packaged kernel, by name, with their dependencies."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import BuildError, UsageError
from harness.core.events import ProgressStep
from harness.core.files import sha256
from harness.images import deb, drivers
from harness.images.build_context import BuildContext
from harness.images.image import Image

KIND = "kernel-module"
_FETCHING = 900.0


def obtain_module_with_dependencies(name: str, image: Image, build_context: BuildContext) -> list[Path]:
    """Return the files of a module of the image's kernel and of its dependencies, in loading order.

    Modules that init loads are left out. Raises UsageError when the kernel has no such module, HostError when its
    package cannot be fetched.
    """
    recipe = image.recipe
    wanted = name.replace("-", "_")
    if wanted in image.drivers:
        return []
    if recipe.kernel.source != "debian-binary" or recipe.architecture.debian is None:
        raise UsageError(
            f"{recipe.name} has no module {name} of its own", where="--with", mend="give the module's file"
        )
    architecture = recipe.architecture.debian
    packages = build_context.with_suite(recipe.kernel.suite).packages
    package = f"linux-image-{image.release}"
    # Since 7.3 the modules are in a package of their own, linux-modules-RELEASE, on which the image depends.
    divided = [each for each in packages.depends(package, architecture) if each.endswith(f"-{image.release}")]

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        step.publish_progress(f"unpacking {package}")
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            for each in (package, *divided):
                deb.unpack(packages.fetch(each, architecture, deadline=Deadline.after(_FETCHING)), Path(scratch))
            lists = [*Path(scratch).glob("lib/modules/*/modules.builtin")]
            lists += Path(scratch).glob("usr/lib/modules/*/modules.builtin")
            roots = [each.parent for each in lists]
            try:
                kept = drivers.copy_modules(roots[0], [wanted], entry / "modules")
            except (BuildError, IndexError):
                raise UsageError(
                    f"{recipe.name} has no module {name}", where="--with", mend="see its package"
                ) from None
        return {"modules": kept}

    hashes = [packages.hash(each, architecture) for each in (package, *divided)]
    parts = [package, *hashes, wanted, sha256(Path(__file__))]
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=build)
    files = [entry.path / "modules" / each for each in entry.facts["modules"]]
    return [file for file in files if file.stem.partition("-")[2].replace("-", "_") not in image.drivers]
