"""Build of a user's module source for one image's kernel, with its compiler and tree, in a copy of the directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError, UsageError
from harness.core.events import ProgressStep
from harness.core.files import read_regular_file
from harness.images import confined_build, debian_suite_compiler, debian_suite_cross_tools
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kbuild import MakeProgress
from harness.images.kernel_toolchain import Make

_MAKEFILES = ("Kbuild", "Makefile")
# Files of an earlier build must not be taken for results of this build.
_BUILT = shutil.ignore_patterns("*.ko", "*.o", "*.mod", "*.mod.c", ".*.cmd", "Module.symvers", "modules.order", ".git")


def source_files(directory: Path) -> list[Path]:
    """Return the files of a module's directory that a build reads, also through links, without those of kbuild."""
    found: list[Path] = []
    visited: set[str] = set()
    for place, below, names in os.walk(directory, followlinks=True):
        left_out = _BUILT(place, [*below, *names])
        visited.add(os.path.realpath(place))
        below[:] = sorted(name for name in set(below) - left_out if os.path.realpath(f"{place}/{name}") not in visited)
        found += [Path(place, name) for name in sorted(set(names) - left_out)]
    return [path for path in found if path.is_file()]


def build(source: Path, image: Image, build_context: BuildContext, directory: Path, flags: str = "") -> list[Path]:
    """Build a directory with a Kbuild, or one source file, below `directory`; return the paths of its modules.

    `flags` are more options for the compiler. The modules name source files by their path in the source. Raises
    UsageError with the compiler's first error when the source does not build, HostError when the image has no tree for
    module builds.
    """
    if image.headers is None:
        raise HostError("has no tree to build modules against", where=image.recipe.name, mend="build its image again")
    into = directory / f"build-{len(list(directory.iterdir()))}"
    into.mkdir()
    log = paths.cache() / "logs" / f"external-{image.recipe.name}.log"
    log.unlink(missing_ok=True)
    headers = image.headers
    compiler = debian_suite_compiler.obtain_compiler(image.recipe, build_context)
    tools = debian_suite_cross_tools.obtain_cross_tools(image.recipe, build_context)
    trees = [headers.source, headers.objects, *(program for program in (compiler, tools) if program)]
    with (
        build_context.bus.step(image.recipe.name, "module") as step,
        tempfile.TemporaryDirectory(prefix="pinpoint-build-", dir=directory) as scratch,
    ):
        place = Path(scratch)
        _lay_out(source, place)
        cores = build_context.slots.cores
        make = Make(
            image.recipe.architecture, headers.source, headers.objects, log, cores, nice=0, compiler_program=compiler
        )
        with confined_build.run_children_confined(trees, place, step):
            _make(make, place, image, source, step, flags)
        found = [_taken(path, into / path.name, source) for path in sorted(place.rglob("*.ko"))]
    if not found:
        raise UsageError("builds no module", where=str(source), mend="name one in obj-m, in its Kbuild or Makefile")
    return found


def _taken(built: Path, copy: Path, source: Path) -> Path:
    """Copy a built module out of the scratch directory."""
    with os.fdopen(confined_build.open_result_descriptor(built, str(source)), "rb") as stream, copy.open("xb") as out:
        shutil.copyfileobj(stream, out)
    return copy


def _make(make: Make, scratch: Path, image: Image, source: Path, step: ProgressStep, flags: str) -> None:
    variables = {
        "M": str(scratch),
        "KCFLAGS": " ".join([image.recipe.kernel.cflags, flags, f"-ffile-prefix-map={scratch}/="]).strip(),
        "KBUILD_MODPOST_WARN": "1",
        # Without ccache: its files are used by builds that are trusted.
        "CC": make.compiler,
        "TMPDIR": str(scratch),
    }
    try:
        make.run(
            ["modules"], MakeProgress(step), deadline=Deadline.after(confined_build.BUILD_SECONDS), variables=variables
        )
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
            shutil.copytree(source, scratch, symlinks=True, ignore=_BUILT, dirs_exist_ok=True)
            _settle_links(source, scratch)
        else:
            (scratch / source.name).write_bytes(read_regular_file(source, confined_build.MOST_BYTES))
            (scratch / "Kbuild").write_text(f"obj-m := {source.stem}.o\n")
    except (OSError, RuntimeError, shutil.Error) as error:
        raise UsageError(
            str(getattr(error, "strerror", None) or error), where=str(source), mend="check the path"
        ) from None


def _settle_links(source: Path, scratch: Path) -> None:
    """Make links to outside the directory absolute. They stay links: a build may read only what its user may read."""
    for path in scratch.rglob("*"):
        if path.is_symlink():
            target = (source / path.relative_to(scratch)).resolve()
            if not target.is_relative_to(source.resolve()):
                path.unlink()
                path.symlink_to(target)


def _demand_small(source: Path) -> None:
    """Raise UsageError for a directory that is too large to be a module's, such as a whole kernel tree."""
    total = 0
    for path in source.rglob("*"):
        total += path.lstat().st_size
        if total > confined_build.MOST_BYTES:
            raise UsageError(
                f"has more than {confined_build.MOST_BYTES >> 20} MiB",
                where=str(source),
                mend="give the module's directory",
            )
