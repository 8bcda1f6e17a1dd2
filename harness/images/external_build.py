"""Build of a user's module source for one image's kernel, with its compiler and tree, in a copy of the directory."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core import child_privilege_drop, paths, process
from harness.core.child_privilege_drop import Rights
from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError, UsageError
from harness.core.events import ProgressStep
from harness.core.locks import hold_lock
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kbuild import Make, MakeProgress

_BUILD_S = 900.0
_MAKEFILES = ("Kbuild", "Makefile")
# Files of an earlier build must not be taken for results of this build.
_BUILT = shutil.ignore_patterns("*.ko", "*.o", "*.mod", "*.mod.c", ".*.cmd", "Module.symvers", "modules.order", ".git")
_MOST_BYTES = 256 << 20
# On the whole host one build at a time has the user of builds: what this user runs afterwards is left over.
_LOCK = Path("/run/pinpoint-module-build.lock")


def build(source: Path, image: Image, build_context: BuildContext, directory: Path) -> list[Path]:
    """Build a directory with a Kbuild, or one source file, below `directory`; return the paths of its modules.

    Raises UsageError with the compiler's first error when the source does not build, HostError when the image has no
    tree for module builds.
    """
    if image.headers is None:
        raise HostError("has no tree to build modules against", where=image.recipe.name, mend="build its image again")
    into = directory / f"build-{len(list(directory.iterdir()))}"
    into.mkdir()
    log = paths.cache() / "logs" / f"external-{image.recipe.name}.log"
    log.unlink(missing_ok=True)
    headers = image.headers
    with (
        build_context.bus.step(image.recipe.name, "module") as step,
        tempfile.TemporaryDirectory(prefix="pinpoint-build-", dir=directory) as scratch,
    ):
        place = Path(scratch)
        _lay_out(source, place)
        make = Make(
            image.recipe.architecture, headers.source, headers.objects, log, jobs=build_context.slots.cores, nice=0
        )
        with _confined(make, place, step):
            _make(make, place, image, source, step)
        found = [_taken(path, into / path.name, source) for path in sorted(place.rglob("*.ko"))]
    if not found:
        raise UsageError("builds no module", where=str(source), mend="name one in obj-m, in its Kbuild or Makefile")
    return found


@contextmanager
def _confined(make: Make, scratch: Path, step: ProgressStep) -> Iterator[None]:
    """Run children with the rights of builds: a Makefile is a program, and its author is unknown."""
    if reason := child_privilege_drop.reason_rights_kept():
        step.set_final_detail(f"built with root's rights: {reason}")
    given = _rights(make, scratch)
    if given is None:
        yield
        return
    with hold_lock(_LOCK, deadline=Deadline.after(_BUILD_S), on_wait=step.publish_progress):
        child_privilege_drop.kill_processes_of_user(given.user)
        try:
            with process.with_rights(given):
                yield
        finally:
            child_privilege_drop.kill_processes_of_user(given.user)


def _rights(make: Make, scratch: Path) -> Rights | None:
    """Return rights to read the kernel's trees and to write the scratch directory only."""
    trees = [paths.store_entry_of(make.source), paths.store_entry_of(make.objects)]
    ours = [tree for tree in trees if tree.resolve().is_relative_to(paths.cache().resolve())]
    foreign = [tree for tree in trees if tree not in ours]
    given = child_privilege_drop.restricted_rights(
        ours, [scratch], foreign=foreign, user=child_privilege_drop.BUILD_USER
    )
    # The copy of a read-only source must be writable, because the build writes beside the source files.
    for path in (scratch, *scratch.rglob("*")) if given else ():
        os.lchown(path, child_privilege_drop.BUILD_USER, child_privilege_drop.GROUP)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))
    return given


def _taken(built: Path, copy: Path, source: Path) -> Path:
    """Copy a built module out of the scratch directory, where a build may have left links to files of the host."""
    try:
        descriptor = os.open(built, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"builds {built.name}, which cannot be read: {error.strerror}", where=str(source)) from None
    status = os.fstat(descriptor)
    # A link in a directory's place leads to another owner's file.
    owned = (
        os.geteuid() or child_privilege_drop.reason_rights_kept() or status.st_uid == child_privilege_drop.BUILD_USER
    )
    if not stat.S_ISREG(status.st_mode) or not owned or status.st_size > _MOST_BYTES:
        os.close(descriptor)
        raise UsageError(f"builds {built.name}, which is no file of the build", where=str(source))
    with os.fdopen(descriptor, "rb") as stream, copy.open("xb") as out:
        shutil.copyfileobj(stream, out)
    return copy


def _make(make: Make, scratch: Path, image: Image, source: Path, step: ProgressStep) -> None:
    variables = {
        "M": str(scratch),
        "KCFLAGS": image.recipe.kernel.cflags,
        "KBUILD_MODPOST_WARN": "1",
        # Without ccache: its files are used by builds that are trusted.
        "CC": f"{make.architecture.cross_prefix}gcc",
        "TMPDIR": str(scratch),
    }
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
            shutil.copytree(source, scratch, symlinks=True, ignore=_BUILT, dirs_exist_ok=True)
            _settle_links(source, scratch)
        else:
            shutil.copyfile(source, scratch / source.name)
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
        if total > _MOST_BYTES:
            raise UsageError(
                f"has more than {_MOST_BYTES >> 20} MiB", where=str(source), mend="give the module's directory"
            )
