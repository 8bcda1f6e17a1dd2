"""The modules in probes/ of the user's own tree: each directory is built for an image's kernel, as `verify` builds one.

They are no part of the image and of its key, so a guest need not be frozen again when one of them changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.elf import Elf
from harness.core.errors import UsageError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256, sha256, sha256_of_strings
from harness.images import debian_suite_compiler, external_build
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel_toolchain import compiler_and_linker_versions

KIND = "own-modules"
# Only line tables, whatever the kernel's configuration is: types would be nine tenths of a module.
_FLAGS = "-g1"


def source_directories() -> list[Path]:
    """Return the directories in probes/ of the own tree: each is the source of one module or of several."""
    tree = paths.own_tree()
    places = sorted((tree / paths.PROBES.name).glob("*/")) if tree else []
    return [place for place in places if not place.name.startswith((".", "__"))]


def source_hashes() -> dict[str, str]:
    """Return the hash of each directory's source, by its path in the own tree."""
    return {f"{paths.PROBES.name}/{place.name}": source_sha256(place) for place in source_directories()}


def source_sha256(directory: Path) -> str:
    """Return one SHA-256 of a module's source, without the files that kbuild makes."""
    files = external_build.source_files(directory)
    return sha256_of_strings(part for path in files for part in (str(path.relative_to(directory)), sha256(path)))


def with_own_modules(image: Image, build_context: BuildContext) -> Image:
    """Return the image with the modules of the own tree, from the store or built now.

    Raises UsageError for a directory that does not build, and for a module with the name of another.
    """
    found: dict[str, Path] = {}
    for source in source_directories():
        for name, module in obtain_modules_of_directory(source, image, build_context).items():
            if name in image.modules or name in found:
                raise UsageError(
                    f"builds {name}, which another directory builds too", where=str(source), mend="rename it"
                )
            found[name] = module
    return replace(image, own_modules=found) if found else image


def obtain_modules_of_directory(
    source: Path, image: Image, build_context: BuildContext, flags: str = ""
) -> Mapping[str, Path]:
    """Return the modules of one directory by name, from the store or built now; `flags` are more compiler options.

    Raises UsageError for a directory that does not build.
    """
    recipe = image.recipe
    compiler = [
        compiler_and_linker_versions(recipe.architecture),
        *debian_suite_compiler.key_parts(recipe, build_context),
    ]
    code = [code_sha256(Path(name)) for name in (__file__, str(external_build.__file__))]
    parts = [image.key, source.name, source_sha256(source), recipe.kernel.cflags, flags, *compiler, *code]
    job = _Job(source, image, build_context, f"{_FLAGS} {flags}".strip())
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    # The kernel writes a module's name with underscores.
    return {path.stem.replace("-", "_"): path for path in sorted(entry.path.glob("*.ko"))}


@dataclass(frozen=True)
class _Job:
    """Build of one directory into a store entry."""

    source: Path
    image: Image
    build_context: BuildContext
    flags: str

    def build(self, entry: Path, _step: ProgressStep) -> Mapping[str, Any]:
        """Build a copy of the directory and keep its modules."""
        with tempfile.TemporaryDirectory(prefix="pinpoint-own-module-") as scratch:
            built = external_build.build(self.source, self.image, self.build_context, Path(scratch), self.flags)
            for module in built:
                (entry / module.name).write_bytes(module.read_bytes())
        return {"build_ids": {path.stem: Elf.read(path).build_id for path in sorted(entry.glob("*.ko"))}}
