"""The image store: every result under a key of all that went in, whole or not at all, verified each time it is used."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.core.deadline import Deadline
from harness.core.events import Bus, ProgressStep
from harness.core.files import digest
from harness.core.locks import held
from harness.images import full_disk, manifest
from harness.images.manifest import Manifest

Build = Callable[[Path, ProgressStep], Mapping[str, Any]]

# Another run may be compiling a kernel on a slow machine; past this it is taken for stuck.
_LOCK_WAIT = 3 * 3600.0
_BEGUN = ".building-"


@dataclass(frozen=True)
class Entry:
    """One verified result: its files stand below `path`, `facts` is what its build said of it."""

    kind: str
    key: str
    path: Path
    facts: Mapping[str, Any]


def key_of(parts: Sequence[str]) -> str:
    """The key under which what is made of `parts` stands in the store."""
    return digest(parts)[:20]


class Store:
    """Entries below one directory, shared by all runs of one user."""

    def __init__(self, root: Path, bus: Bus) -> None:
        self.root = root
        self._bus = bus
        self._swept = False
        self._used: dict[str, int] = {}

    def obtain(self, kind: str, parts: Sequence[str], *, vm: str, build: Build) -> Entry:
        """The entry made of `parts`, from the store if it is there and undamaged, else built now.

        `parts` is everything that goes into the result. `build` is handed an empty directory and the step to tell its
        progress to, and returns facts that JSON can hold; nothing in its files may name that directory, which is
        renamed when it is whole. One run builds, a second waits for it. Raises what `build` raises, and HostError when
        the disk is full or cannot be written.
        """
        key = key_of(parts)
        with full_disk.told(self.root):
            self._sweep()
        with self._bus.step(vm, kind) as step, full_disk.told(self.root):
            lock = self._lock_path(f"{kind}-{key}")
            with held(lock, deadline=Deadline.after(_LOCK_WAIT), on_wait=step.say):
                entry = self._kept(kind, key, step)
                if entry is None:
                    damage = step.closing
                    step.close_with("")
                    entry = self._built(kind, key, parts, step, build)
                    # The build's progress has covered what was said of it.
                    step.close_with("; ".join(part for part in (damage, step.closing) if part))
                self.use(entry.path)
            return entry

    def path(self, kind: str, parts: Sequence[str]) -> Path:
        """Where such an entry stands, built or not."""
        return self.root / f"{kind}-{key_of(parts)}"

    def present(self, kind: str, parts: Sequence[str]) -> bool:
        """True when such an entry was built; a cheap look that verifies nothing."""
        return (self.path(kind, parts) / manifest.NAME).is_file()

    def drop(self, kind: str, parts: Sequence[str]) -> None:
        """Remove an entry that turned out to be of no use, if it is there: who wants it builds it again."""
        self._drop_free(self.path(kind, parts))

    def drop_unused(self, kind: str, seconds: float) -> None:
        """Remove the entries of a kind that no run has obtained for so long; those under a lock are left alone."""
        for path in self.root.glob(f"{kind}-*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > seconds:
                    self.discard(path)

    def use(self, path: Path) -> None:
        """Mark an entry as used: until this process ends, no other one drops it as unused.

        A shared lock of the kernel's stands for each process that uses it; it goes with the process, however that ends.
        """
        with suppress(OSError):
            os.utime(path)
            if path.name not in self._used:
                self._used[path.name] = handle = _open_lock(self._use_path(path.name))
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def discard(self, path: Path) -> bool:
        """Remove an entry that no process uses; false where one does, or builds it, or has removed it."""
        with suppress(Timeout, FileNotFoundError, BlockingIOError), FileLock(self._lock_path(path.name), timeout=0):
            handle = _open_lock(self._use_path(path.name))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._discard(path)
            finally:
                os.close(handle)
            return True
        return False

    def _drop_free(self, path: Path) -> None:
        """Remove an entry; one that somebody holds the lock of, or has removed, is left alone."""
        with suppress(Timeout, FileNotFoundError), FileLock(self._lock_path(path.name), timeout=0):
            self._discard(path)

    def _kept(self, kind: str, key: str, step: ProgressStep) -> Entry | None:
        """The entry as it stands, or None; a damaged one is said and removed."""
        path = self.root / f"{kind}-{key}"
        if not path.exists():
            return None
        record = manifest.read(path)
        wrong = manifest.damage(path, record) if record else f"{manifest.NAME} is damaged"
        if record and not wrong:
            step.close_with("from the store")
            os.utime(path)
            return Entry(kind, key, path, record.facts)
        step.say(f"damaged in the store: {wrong}; building it again")
        step.close_with(f"it was damaged in the store: {wrong}")
        self._discard(path)
        return None

    def _built(self, kind: str, key: str, parts: Sequence[str], step: ProgressStep, build: Build) -> Entry:
        """Build in a directory beside, record, rename."""
        beside = self._beside(f"{kind}-{key}")
        beside.mkdir(parents=True)
        path = self.root / f"{kind}-{key}"
        try:
            # Asked here too: what the build leaves is about to go, and then the disk is full no more.
            with full_disk.told(self.root):
                record: Manifest = manifest.write(beside, kind, key, parts, build(beside, step))
            beside.rename(path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return Entry(kind, key, path, record.facts)

    def _beside(self, name: str) -> Path:
        """A name no other build has: make's orphans of a killed run may still write into the old one."""
        return self.root / f"{_BEGUN}{name}-{uuid.uuid4().hex[:8]}"

    def _discard(self, path: Path) -> None:
        """Remove an entry so that no half of it is ever taken for whole."""
        away = self._beside(path.name)
        path.rename(away)
        shutil.rmtree(away)

    def _sweep(self) -> None:
        """Remove what killed runs left: directories of builds whose lock nobody holds."""
        if self._swept or not self.root.exists():
            return
        self._swept = True
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
