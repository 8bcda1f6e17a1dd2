"""Build of a user's module source for one image's kernel, with its compiler and tree, in a copy of the directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError, UsageError
from harness.core.events import ProgressStep
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kbuild import Make, MakeProgress

_BUILD_S = 900.0
_MAKEFILES = ("Kbuild", "Makefile")
# Files of an earlier build must not be taken for results of this build.
_BUILT = shutil.ignore_patterns("*.ko", "*.o", "*.mod", "*.mod.c", ".*.cmd", "Module.symvers", "modules.order", ".git")
_MOST_BYTES = 256 << 20


def build(source: Path, image: Image, build_context: BuildContext, directory: Path) -> list[Path]:
    """Build a directory with a Kbuild, or one source file, below `directory`; return the paths of its modules.

    Raises UsageError with the compiler's first error when the source does not build, HostError when the image has no
    tree for module builds.
    """
    if image.headers is None:
        raise HostError("has no tree to build modules against", where=image.recipe.name, mend="build its image again")
    scratch = directory / f"build-{len(list(directory.iterdir()))}"
    _lay_out(source, scratch)
    log = paths.cache() / "logs" / f"external-{image.recipe.name}.log"
    log.unlink(missing_ok=True)
    headers = image.headers
    with build_context.bus.step(image.recipe.name, "module") as step:
        make = Make(
            image.recipe.architecture, headers.source, headers.objects, log, jobs=build_context.slots.cores, nice=0
        )
        _make(make, scratch, image, source, step)
    found = sorted(scratch.rglob("*.ko"))
    if not found:
        raise UsageError("builds no module", where=str(source), mend="name one in obj-m, in its Kbuild or Makefile")
    return found


def _make(make: Make, scratch: Path, image: Image, source: Path, step: ProgressStep) -> None:
    variables = {"M": str(scratch), "KCFLAGS": image.recipe.kernel.cflags, "KBUILD_MODPOST_WARN": "1"}
    try:
        make.run(["modules"], MakeProgress(step), deadline=Deadline.after(_BUILD_S), variables=variables)
    except BuildError as error:
        what = error.what.replace(f"{scratch}/", "").replace("make modules failed: ", "does not build: ")
        raise UsageError(what, where=str(source), mend=f"the whole log: {make.log}") from None


def _lay_out(source: Path, scratch: Path) -> None:
    """Copy the source, because kbuild writes to the source's directory, which may be read-only."""
    try:
        if source.is_dir():
            if not any((source / name).is_file() for name in _MAKEFILES):
                raise UsageError(
                    "has no Kbuild and no Makefile", where=str(source), mend="write `obj-m := NAME.o` to one"
                )
            _demand_small(source)
            shutil.copytree(source, scratch, ignore=_BUILT)
        else:
            scratch.mkdir()
            shutil.copyfile(source, scratch / source.name)
            (scratch / "Kbuild").write_text(f"obj-m := {source.stem}.o\n")
    except (OSError, shutil.Error) as error:
        raise UsageError(
            str(getattr(error, "strerror", None) or error), where=str(source), mend="check the path"
        ) from None


def _demand_small(source: Path) -> None:
    """Raise UsageError for a directory that is too large to be a module's, such as a whole kernel tree."""
    total = 0
    for path in source.rglob("*"):
        total += path.lstat().st_size
        if total > _MOST_BYTES:
            raise UsageError(
                f"has more than {_MOST_BYTES >> 20} MiB", where=str(source), mend="give the module's directory"
            )
