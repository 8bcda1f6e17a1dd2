"""The image store: complete build results under a key of all their inputs, verified on each use."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.events import Bus, ProgressStep
from harness.core.files import sha256_of_strings
from harness.core.locks import hold_lock
from harness.images import disk_full_errors, store_entry_manifest
from harness.images.store_entry_manifest import Manifest

Build = Callable[[Path, ProgressStep], Mapping[str, Any]]

# Another run may be compiling a kernel on a slow machine. After this time it is considered stuck.
_LOCK_WAIT = 3 * 3600.0
_BEGUN = ".building-"


@dataclass(frozen=True)
class Entry:
    """One verified result: its files are below `path`, `facts` are the figures that its build returned."""

    kind: str
    key: str
    path: Path
    facts: Mapping[str, Any]


def key_of(parts: Sequence[str]) -> str:
    """Return the store key of a result with the inputs `parts`."""
    return sha256_of_strings(parts)[:20]


class Store:
    """Entries below one directory, shared by all runs of one user."""

    def __init__(self, root: Path, bus: Bus) -> None:
        self.root = root
        self._bus = bus
        self._leftovers_removed = False
        self._builds = True
        self._used: dict[str, int] = {}

    def without_builds(self) -> Store:
        """Return this store; its `obtain` raises HostError for an entry that would have to be built."""
        other = copy(self)
        other._builds = False
        return other

    def obtain(self, kind: str, parts: Sequence[str], *, vm: str, build: Build) -> Entry:
        """Return the entry with the inputs `parts`, from the store if it is there and undamaged, else built now.

        `parts` are all inputs of the result. `build` is called with an empty directory and the step that publishes its
        progress, and returns facts that JSON can represent. Its files must not contain the path of that directory,
        which is renamed when it is complete. One run builds, and others wait for it. Raises what `build` raises, and
        HostError when the disk is full or cannot be written.
        """
        key = key_of(parts)
        with disk_full_errors.as_host_errors(self.root):
            self._remove_leftovers()
        with self._bus.step(vm, kind) as step, disk_full_errors.as_host_errors(self.root):
            lock = self._lock_path(f"{kind}-{key}")
            with hold_lock(lock, deadline=Deadline.after(_LOCK_WAIT), on_wait=step.publish_progress):
                entry = self._kept(kind, key, step)
                if entry is None:
                    damage = step.final_detail
                    step.set_final_detail("")
                    entry = self._built(kind, key, parts, step, build)
                    # The board no longer shows the damage: the build's progress has replaced it.
                    step.set_final_detail("; ".join(part for part in (damage, step.final_detail) if part))
                self.hold_until_exit(entry.path)
            return entry

    def adopt(self, kind: str, key: str, *, fill: Callable[[Path], None]) -> bool:
        """Add an entry that was built elsewhere; return False if the store has it, undamaged.

        `fill` writes the entry's files into an empty directory. Raises what it raises, and UsageError if the files are
        not exactly those of the manifest, or the manifest is not of an entry with this kind and key.
        """
        path = self.root / f"{kind}-{key}"
        with (
            disk_full_errors.as_host_errors(self.root),
            hold_lock(self._lock_path(path.name), deadline=Deadline.after(_LOCK_WAIT), on_wait=lambda _: None),
        ):
            if path.exists():
                record = store_entry_manifest.read(path)
                if record and not store_entry_manifest.find_damage(path, record):
                    return False
                self._discard(path)
            scratch = self._new_scratch_path(path.name)
            scratch.mkdir(parents=True)
            try:
                fill(scratch)
                if wrong := store_entry_manifest.find_foreign_damage(scratch, kind, key, key_of):
                    raise UsageError(wrong, where=path.name, mend="nothing of it was added; export it again")
                scratch.rename(path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return True

    def entry_path(self, kind: str, parts: Sequence[str]) -> Path:
        """Return the path of an entry, which may not be built yet."""
        return self.root / f"{kind}-{key_of(parts)}"

    def present(self, kind: str, parts: Sequence[str]) -> bool:
        """Return True when the entry has been built; its files are not verified."""
        return (self.entry_path(kind, parts) / store_entry_manifest.NAME).is_file()

    def remove(self, kind: str, parts: Sequence[str]) -> None:
        """Remove an entry that this process could not use, if it exists; the next use builds it again.

        It stays while another process uses it, which that process could.
        """
        path = self.entry_path(kind, parts)
        if (handle := self._used.pop(path.name, -1)) >= 0:
            os.close(handle)
        if not self.remove_unless_in_use(path) and path.exists():
            self.hold_until_exit(path)

    def remove_unused_of_kind(self, kind: str, seconds: float) -> None:
        """Remove the entries of a kind that no run has used for `seconds`, except locked ones."""
        for path in self.root.glob(f"{kind}-*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > seconds:
                    self.remove_unless_in_use(path)

    def hold_until_exit(self, path: Path) -> None:
        """Mark an entry as used: until this process ends, no other process drops it as unused.

        Each process that uses the entry holds a shared flock, which the kernel releases when the process ends.
        """
        with suppress(OSError):
            os.utime(path)
            if path.name not in self._used:
                handle = _open_lock(self._use_path(path.name))
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    # Another process is removing the entry. It is not held, and a later call must try again.
                    os.close(handle)
                    raise
                self._used[path.name] = handle

    def remove_unless_in_use(self, path: Path) -> bool:
        """Remove an entry; return False if a process uses it, builds it, or has removed it."""
        with suppress(Timeout, FileNotFoundError, BlockingIOError), FileLock(self._lock_path(path.name), timeout=0):
            handle = _open_lock(self._use_path(path.name))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._discard(path)
            finally:
                os.close(handle)
            return True
        return False

    def _kept(self, kind: str, key: str, step: ProgressStep) -> Entry | None:
        """Return the stored entry, or None; report and remove a damaged entry."""
        path = self.root / f"{kind}-{key}"
        if not path.exists():
            return None
        record = store_entry_manifest.read(path)
        wrong = store_entry_manifest.find_damage(path, record) if record else f"{store_entry_manifest.NAME} is damaged"
        if record and not wrong:
            step.set_final_detail("from the store")
            os.utime(path)
            return Entry(kind, key, path, record.facts)
        step.publish_progress(f"damaged in the store: {wrong}; building it again")
        step.set_final_detail(f"it was damaged in the store: {wrong}")
        self._discard(path)
        return None

    def _built(self, kind: str, key: str, parts: Sequence[str], step: ProgressStep, build: Build) -> Entry:
        """Build in a temporary directory, write the manifest, and rename the directory."""
        if not self._builds:
            raise HostError("is not in the store any more", where=f"{kind}-{key}", mend="run again: it is sent again")
        scratch = self._new_scratch_path(f"{kind}-{key}")
        scratch.mkdir(parents=True)
        path = self.root / f"{kind}-{key}"
        try:
            # Checked here too, before the files of the failed build are removed and the disk is no longer full.
            with disk_full_errors.as_host_errors(self.root):
                record: Manifest = store_entry_manifest.write(scratch, kind, key, parts, build(scratch, step))
            scratch.rename(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Entry(kind, key, path, record.facts)

    def _new_scratch_path(self, name: str) -> Path:
        """Return a unique temporary path: orphaned children of a killed run's make may still write to the old one."""
        return self.root / f"{_BEGUN}{name}-{uuid.uuid4().hex[:8]}"

    def _discard(self, path: Path) -> None:
        """Rename an entry before removing it, so that no partial entry ever has its path."""
        away = self._new_scratch_path(path.name)
        path.rename(away)
        shutil.rmtree(away)

    def _remove_leftovers(self) -> None:
        """Remove the build directories of killed runs, whose locks nobody holds."""
        if self._leftovers_removed or not self.root.exists():
            return
        self._leftovers_removed = True
        for leftover in self.root.glob(f"{_BEGUN}*"):
            name = leftover.name.removeprefix(_BEGUN).rpartition("-")[0]
            try:
                with FileLock(self._lock_path(name), timeout=0):
                    shutil.rmtree(leftover, ignore_errors=True)
            except Timeout:
                continue

    def _lock_path(self, name: str) -> Path:
        return self.root / ".locks" / name

    def _use_path(self, name: str) -> Path:
        return self.root / ".locks" / f"{name}.used"


def _open_lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
