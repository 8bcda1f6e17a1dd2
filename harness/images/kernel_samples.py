"""Probe modules that the kernel's own source has below samples/, of the very version that an image runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import BuildError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel_source_files import obtain_source_files

KIND = "kernel-samples"
KPROBES, FPROBES = "samples/kprobes", "samples/fprobe"


def obtain_sample_sources(image: Image, build_context: BuildContext, samples: str = KPROBES) -> Path:
    """Return a directory with a subdirectory for each sample, each with its source and a Kbuild.

    `samples` is the directory of the kernel's source that has them.

    Raises HostError or RecipeError when the source cannot be had, BuildError when it has no samples.
    """
    files = obtain_source_files(image, build_context, [samples])

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:  # noqa: ARG001 - the interface of the store
        found = sorted((files / samples).glob("*.c"))
        if not found:
            raise BuildError(f"no {samples}", where=image.recipe.name, mend="has the kernel moved its samples?")
        for file in found:
            write_module_source(file, entry / file.stem)
        return {"samples": [file.stem for file in found]}

    parts = [files.name, samples, code_sha256(Path(__file__))]
    return build_context.store.obtain(KIND, parts, vm=image.recipe.name, build=build).path


def write_module_source(
    file: Path, directory: Path, *, headers: Path | None = None, preincluded: Path | None = None
) -> None:
    """Make a directory with a module's one source file and a Kbuild for it.

    Files of the directory `headers` are found before the kernel's. `preincluded` is included before the source.
    """
    directory.mkdir()
    shutil.copyfile(file, directory / file.name)
    lines = [f"obj-m := {file.stem}.o"]
    if headers:
        shutil.copytree(headers, directory / "headers")
        # LINUXINCLUDE comes before ccflags-y, and the kernel has a header of the same name.
        lines.append("LINUXINCLUDE := -I$(src)/headers $(LINUXINCLUDE)")
    if preincluded:
        shutil.copyfile(preincluded, directory / preincluded.name)
        lines.append(f"ccflags-y := -include $(src)/{preincluded.name}")
    (directory / "Kbuild").write_text("".join(f"{line}\n" for line in lines))
