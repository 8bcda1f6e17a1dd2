"""Runs of foreign build steps: a Makefile or a compiled script is a program, and its author is unknown."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.core import child_privilege_drop, paths, process
from harness.core.child_privilege_drop import Rights
from harness.core.deadline import Deadline
from harness.core.errors import UsageError
from harness.core.events import ProgressStep
from harness.core.locks import hold_lock

BUILD_SECONDS = 900.0
MOST_BYTES = 256 << 20
# On the whole host one build at a time has the user of builds: what this user runs afterwards is left over.
_LOCK = Path("/run/pinpoint-module-build.lock")


@contextmanager
def run_children_confined(trees: Sequence[Path], scratch: Path, step: ProgressStep) -> Iterator[None]:
    """Run children with the rights of builds: they read `trees` and write the scratch directory, and nothing else."""
    if reason := child_privilege_drop.reason_rights_kept():
        step.set_final_detail(f"built with root's rights: {reason}")
    given = _rights(trees, scratch)
    if given is None:
        yield
        return
    with hold_lock(_LOCK, deadline=Deadline.after(BUILD_SECONDS), on_wait=step.publish_progress):
        child_privilege_drop.kill_processes_of_user(given.user)
        try:
            with process.run_children_with_rights(given):
                yield
        finally:
            child_privilege_drop.kill_processes_of_user(given.user)


def _rights(trees: Sequence[Path], scratch: Path) -> Rights | None:
    """Return rights to read the trees and to write the scratch directory only."""
    entries = [paths.store_entry_or_path(tree) for tree in trees]
    ours = [tree for tree in entries if tree.resolve().is_relative_to(paths.cache().resolve())]
    foreign = [tree for tree in entries if tree not in ours]
    given = child_privilege_drop.grant_restricted_rights(
        ours, [scratch], foreign=foreign, user=child_privilege_drop.BUILD_USER
    )
    # The copy of a read-only source must be writable, because the build writes next to the source files.
    for path in (scratch, *scratch.rglob("*")) if given else ():
        os.lchown(path, child_privilege_drop.BUILD_USER, child_privilege_drop.GROUP)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))
    return given


def open_result_descriptor(built: Path, source: str) -> int:
    """Open a file of the scratch directory, where a build may have left links to files of the host.

    Returns the descriptor. Raises UsageError for anything that is no file of the build.
    """
    try:
        descriptor = os.open(built, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"builds {built.name}, which cannot be read: {error.strerror}", where=source) from None
    status = os.fstat(descriptor)
    # A link in a directory's place leads to another owner's file.
    owned = (
        os.geteuid() or child_privilege_drop.reason_rights_kept() or status.st_uid == child_privilege_drop.BUILD_USER
    )
    if not stat.S_ISREG(status.st_mode) or not owned or status.st_size > MOST_BYTES:
        os.close(descriptor)
        raise UsageError(f"builds {built.name}, which is no file of the build", where=source)
    return descriptor
